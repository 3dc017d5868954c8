"""The parts of the pictures of attention: frames side by side, arrows, heat, legend and caption.

In every function `figure` is the picture, `attention` is an `nl_jax.figures.attention.Attention`, and `video` is its
clip, uint8 (f,y,x,3). A panel is a pair of Matplotlib axes that shows one frame.
"""

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.patheffects import withStroke

POSITIVE, NEGATIVE = "#e66100", "#5d3a9b"  # colour-blind readers can tell them apart; heat maps end in these colours
SIGNED, UNSIGNED = "PuOr_r", "Oranges"  # colours of signed weights and of weights from 0; white is weight 0
COLUMNS = 8  # frames in a row of a picture
PANEL = 1.6  # height of a frame in inches
TOP, BOTTOM, RIGHT = 0.6, 0.35, 0.9  # inches for the caption, the legend and the colour bar
RING = dict(marker="o", markersize=9, markerfacecolor="white", markeredgecolor="black")


def add_arrows(figure: Figure, start, panels: dict, video, attention, strongest) -> None:
    """Draws arrows from the position to each of the strongest keys whose frame has a panel.

    Args:
      figure: the picture.
      start: the panel of the position.
      panels: the panels by frame.
      video: the clip.
      attention: the weights of one position.
      strongest: places and weights of keys, as `Attention.strongest` returns them.
    """
    tail = _pixel(attention.position[1:], attention.shape[1:], video.shape[1:3])
    keys, largest = attention.weights.shape, float(np.abs(attention.weights).max()) or 1.0
    # Arrows to the nearest frames are on top, because a longer arrow would hide the head of a shorter one.
    for place, weight in sorted(strongest, key=lambda found: -abs(found[0][0] - attention.position[0])):
        frame = frame_of(place[0], keys[0], len(video))
        if frame not in panels:
            continue
        size = abs(weight) / largest
        arrow = FancyArrowPatch(
            _across(figure, start, tail),
            _across(figure, panels[frame], _pixel(place[1:], keys[1:], video.shape[1:3])),
            transform=figure.transFigure,
            arrowstyle="-|>",
            mutation_scale=6 + 6 * size,
            linewidth=0.8 + 2.0 * size,
            linestyle="-" if weight > 0 else (0, (4, 2)),
            color=POSITIVE if weight > 0 else NEGATIVE,
            path_effects=[withStroke(linewidth=2.2 + 2.0 * size, foreground="white", alpha=0.7)],  # for any frame
        )
        figure.add_artist(arrow)


def add_heat(panel, frame: UInt8[np.ndarray, "y x 3"], weights: Float[np.ndarray, "H W"], attention):
    """Draws the weights of one frame in colour over the frame in pale grey, and returns the image of the weights.

    All frames of the clip have the same scale of colours.
    """
    panel.imshow(frame.mean(axis=-1), "gray", vmin=-250, vmax=255)
    largest = float(np.abs(attention.weights).max()) or 1.0
    extent = (-0.5, frame.shape[1] - 0.5, frame.shape[0] - 0.5, -0.5)
    low, colours = (-largest, SIGNED) if attention.signed else (0.0, UNSIGNED)
    return panel.imshow(weights, colours, vmin=low, vmax=largest, alpha=0.8, extent=extent)


def add_bar(figure: Figure, image) -> None:
    """Draws the colour scale in the margin on the right. `image` is a result of `add_heat`."""
    width, height = figure.get_size_inches()
    bottom, top = BOTTOM + 0.1, min(height - TOP - 0.1, BOTTOM + 2.5)
    ax = figure.add_axes((1 - 0.78 / width, bottom / height, 0.1 / width, (top - bottom) / height))
    bar = figure.colorbar(image, cax=ax)
    bar.set_label("weight f(x_i, x_j) / C(x)", fontsize=7, labelpad=2)
    ax.tick_params(labelsize=7, pad=2)
    bar.formatter.set_powerlimits((-2, 3))
    ax.yaxis.offsetText.set_fontsize(7)


def legend(figure: Figure, attention, *, arrows: bool) -> None:
    """Draws the legend below the panels. `arrows` says whether the picture has arrows."""
    entries = []
    if attention.position is not None:
        entries.append(Line2D([], [], linestyle="", **RING, label="position asked for"))
    if arrows:
        label = "arrow to a key, thicker for a larger weight" if not attention.signed else "positive weight"
        entries.append(Line2D([], [], color=POSITIVE, linewidth=2, label=label))
        if attention.signed:
            entries.append(Line2D([], [], color=NEGATIVE, linewidth=2, linestyle=(0, (4, 2)), label="negative weight"))
    if entries:
        figure.legend(handles=entries, loc="lower left", ncols=len(entries), fontsize=8, frameon=False, handlelength=3)


def mark(figure: Figure, panel, video, attention) -> None:
    """Draws a ring at the position in its panel, over the arrows that start there."""
    at = _across(figure, panel, _pixel(attention.position[1:], attention.shape[1:], video.shape[1:3]))
    figure.add_artist(Line2D(*([coordinate] for coordinate in at), transform=figure.transFigure, zorder=9, **RING))


def strip(video, frames, lines: int = 1):
    """Returns a figure with frames of the clip in rows of eight, and the first panel of each frame.

    Each frame has `lines` panels, one above the other. The first panel shows the frame. `figure.axes` has the panels
    frame by frame, and the panels of a frame from top to bottom.
    """
    columns = min(len(frames), COLUMNS)
    rows = -(-len(frames) // columns)
    height, width = video.shape[1:3]
    size = (max(PANEL * columns * width / height + RIGHT, 7.0), (PANEL * lines + 0.25) * rows + TOP + BOTTOM)
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    outer = figure.add_gridspec(
        rows,
        columns,
        **_margins(*size),
        wspace=0.04,
        hspace=0.25 / (PANEL * lines),
    )
    panels = {}
    for place, frame in zip(outer, frames, strict=False):
        inner = place.subgridspec(lines, 1, hspace=0.03)
        for line in range(lines):
            figure.add_subplot(inner[line]).set_axis_off()
        panels[frame] = figure.axes[-lines]
        panels[frame].imshow(video[frame])
        if len(video) > 1:  # an image has one frame
            panels[frame].set_title(f"frame {frame}", fontsize=8, pad=2)
    return figure, panels


def row(video, frames):
    """Returns a figure with large frames of the clip side by side, and their panels."""
    height, width = video.shape[1:3]
    side = 1.6 * PANEL
    size = (max(side * len(frames) * width / height + RIGHT, 6.5), side + TOP + BOTTOM)
    figure = Figure(figsize=size, dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(frames), gridspec_kw=dict(**_margins(*size), wspace=0.05))
    for ax, frame in zip(axes, frames, strict=True):
        ax.imshow(video[frame])
        ax.set_title(f"frame {frame}", fontsize=8, pad=2)
        ax.set_axis_off()
    return figure, axes


def _margins(width: float, height: float) -> dict[str, float]:
    return dict(left=0.01, right=1 - RIGHT / width, bottom=BOTTOM / height, top=1 - TOP / height)


def _across(figure, axes, point):
    """Returns a point of one panel in coordinates of the figure. Arrows between panels need these coordinates."""
    axes.apply_aspect()  # only then the panel has the shape of the frame
    return tuple(figure.transFigure.inverted().transform(axes.transData.transform(point)))


def caption(figure: Figure, title: str, text: str) -> None:
    """Writes a title and a line of text above the panels."""
    figure.suptitle(
        f"{title}\n{text}" if title else text,
        x=0.01,
        y=1 - 0.05 / figure.get_figheight(),
        va="top",
        ha="left",
        fontsize=8,
        parse_math=False,  # the name of a file or of a class may have two dollar signs
    )


def frame_of(at: int, count: int, frames: int) -> int:
    """Returns the frame at the middle of step `at`, if `count` equal steps divide a clip of `frames` frames."""
    return min(int((at + 0.5) * frames / count), frames - 1)


def _pixel(place, grid, size) -> tuple[float, float]:
    """Returns (x, y), the middle of a cell (row, column)."""
    (row, column), (rows, columns), (height, width) = place, grid, size
    return ((column + 0.5) * width / columns - 0.5, (row + 0.5) * height / rows - 0.5)
