"""What a position of a clip looks at: rows of a non-local block's n x m matrix, drawn over the frames (figure 3).

A row is computed by itself; the matrix is never formed. One letter per axis: t h w of the block's input, where a
position lies, and T H W of its keys, which subsampling leaves fewer of.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from nl_jax.errors import InputError
from nl_jax.models import VideoResNet

POSITIVE, NEGATIVE = "#0072b2", "#d55e00"  # told apart by the colour-blind, and on photographs
QUERIES = 64  # rows at a time, where all of them are averaged
COLUMNS = 8  # frames in a row of a picture
PANEL = 1.6  # inches that a frame is high


@dataclasses.dataclass(frozen=True)
class Attention:
    """Weights f(x_i, x_j) / C(x) of one position i over every j, or their average over all i.

    Attributes:
      weights: of every key; 0 where the block does not look (other frames, where it sums over space alone).
      position: (frame, row, column) in the block's input, None for the average.
      shape: (t, h, w) of the block's input.
      block: its name, with the pairwise function.
    """

    weights: Float[np.ndarray, "T H W"]
    position: tuple[int, int, int] | None
    shape: tuple[int, int, int]
    block: str

    @property
    def signed(self) -> bool:
        """Whether any weight is negative, as those of the dot product may be."""
        return bool((self.weights < 0).any())

    def strongest(self, count: int = 20) -> list[tuple[tuple[int, int, int], float]]:
        """The keys of the largest weights by size, the strongest first; weights of 0 are left out."""
        order = np.argsort(-np.abs(self.weights), axis=None, kind="stable")[:count]
        places = [tuple(map(int, np.unravel_index(at, self.weights.shape))) for at in order]
        return [(place, float(self.weights[place])) for place in places if self.weights[place]]


def attend(
    model: VideoResNet, video: Float[jax.Array, "1 f y x 3"], block: str, position: tuple[int, int, int] | None
) -> Attention:
    """What `position` (frame, row, column) of the input of a block looks at; None averages over all positions.

    Args:
      model: in evaluation mode.
      video: one clip, normalised as the network was trained.
      block: a name of `model.nonlocal_blocks()`, such as res3_1_nonlocal.

    Raises:
      InputError: for a block or a position that does not exist.
    """
    blocks = model.nonlocal_blocks()
    if block not in blocks:
        raise InputError(f"block={block!r} is unknown; the network has {', '.join(blocks) or 'no non-local block'}")
    _, out = model(video)
    x = out[block.removesuffix("_nonlocal")]
    shape = x.shape[1:4]
    if position is not None and not all(0 <= at < size for at, size in zip(position, shape, strict=True)):
        raise InputError(f"position={position} lies outside the {shape} positions of {block}; count from 0")
    weights = _mean_weights(blocks[block], x) if position is None else _weights(blocks[block], x, position)
    name = f"{block} ({blocks[block].pairwise})"
    return Attention(np.asarray(weights, np.float32), position, shape, name)


def _weights(block, x, position):
    """The row of one position, among zeros where the block sums over a part of the clip only."""
    t, h, w = x.shape[1:4]
    frame, row, column = position
    group = block.time_group or t
    # Where the position is counted, and in which element of the batch, which the axes not summed over are folded into.
    at, element = {
        "spacetime": (((frame % group) * h + row) * w + column, frame // group),
        "space": (row * w + column, frame),
        "time": (frame, row * w + column),
    }[block.axes]
    found = block.attention_rows(x, jnp.array([at]))[element, 0].reshape(block.key_shape(x.shape))
    if block.axes == "space":
        return jnp.zeros((t, *found.shape)).at[frame].set(found)
    if block.axes == "time":
        return jnp.zeros((t, h, w)).at[:, row, column].set(found)
    start = frame // group * group
    return jnp.zeros((t, *found.shape[1:])).at[start : start + group].set(found)


def _mean_weights(block, x):
    """The average row over all positions, a few at a time."""
    count = int(np.prod([x.shape[a] for a in {"spacetime": (1, 2, 3), "space": (2, 3), "time": (1,)}[block.axes]]))
    count //= x.shape[1] // block.time_group if block.time_group else 1
    graphdef, state = nnx.split(block)
    rows = jax.jit(lambda state, x, at: nnx.merge(graphdef, state).attention_rows(x, at).sum(axis=1))
    total = sum(rows(state, x, jnp.arange(at, min(at + QUERIES, count))) for at in range(0, count, QUERIES)) / count
    t, h, w = x.shape[1:4]
    keys = block.key_shape(x.shape)
    if block.axes == "time":
        return jnp.moveaxis(total.reshape(h, w, t), -1, 0) / (h * w)
    if block.axes == "space":
        return total.reshape(t, *keys) / t
    return total.reshape(t, *keys[1:]) / (t // keys[0])


def draw_arrows(video: UInt8[np.ndarray, "f y x 3"], attention: Attention, count: int = 20) -> Figure:
    """The clip's frames in a row, with an arrow from the position to each of its `count` strongest keys (figure 3).

    Arrows are the thicker the larger the weight; negative weights are dashed and of another colour. Shown are the
    frames where the arrows start and end.
    """
    if attention.position is None:
        raise InputError("arrows need a position to start from; draw_heat shows the average")
    strongest = attention.strongest(count)
    frames = video.shape[0]
    t, h, w = attention.shape
    start = (_frame_of(attention.position[0], t, frames), *attention.position[1:])
    shown = sorted({start[0], *(_frame_of(place[0], attention.weights.shape[0], frames) for place, _ in strongest)})
    figure, panels = _strip(video, shown)
    tail = _pixel(start[1:], (h, w), video.shape[1:3])
    largest = max((abs(weight) for _, weight in strongest), default=1.0)
    for place, weight in reversed(strongest):  # the strongest on top
        frame = _frame_of(place[0], attention.weights.shape[0], frames)
        head = _pixel(place[1:], attention.weights.shape[1:], video.shape[1:3])
        size = abs(weight) / largest
        arrow = FancyArrowPatch(
            _across(figure, panels[start[0]], tail),
            _across(figure, panels[frame], head),
            transform=figure.transFigure,
            arrowstyle="-|>",
            mutation_scale=6 + 6 * size,
            linewidth=0.6 + 2.0 * size,
            linestyle="-" if weight > 0 else (0, (4, 2)),
            color=POSITIVE if weight > 0 else NEGATIVE,
            alpha=0.35 + 0.65 * size,
        )
        figure.add_artist(arrow)
    panels[start[0]].plot(*tail, "o", markersize=9, markerfacecolor="white", markeredgecolor="black", zorder=5)
    share = sum(abs(weight) for _, weight in strongest) / max(np.abs(attention.weights).sum(), 1e-30)
    sign = "; dashed: negative" if attention.signed else ""
    _caption(
        figure,
        f"{attention.block}: the {len(strongest)} strongest of {attention.weights.size} keys "
        f"({share:.0%} of the weight) for position {attention.position} of {attention.shape}{sign}",
    )
    return figure


def draw_heat(video: UInt8[np.ndarray, "f y x 3"], attention: Attention) -> Figure:
    """A heat map over every key frame: where the weights of one position, or of the average one, lie."""
    keys = attention.weights.shape[0]
    frames = [_frame_of(key, keys, video.shape[0]) for key in range(keys)]
    figure, panels = _strip(video, frames)
    largest = float(np.abs(attention.weights).max()) or 1.0
    low, colours = (-largest, "PuOr_r") if attention.signed else (0.0, "viridis")
    for panel, weights in zip(panels.values(), attention.weights, strict=True):
        extent = (-0.5, video.shape[2] - 0.5, video.shape[1] - 0.5, -0.5)
        image = panel.imshow(weights, colours, vmin=low, vmax=largest, alpha=0.6, extent=extent)
    if attention.position is not None:
        t, h, w = attention.shape
        tail = _pixel(attention.position[1:], (h, w), video.shape[1:3])
        panel = panels[min(panels, key=lambda frame: abs(frame - _frame_of(attention.position[0], t, video.shape[0])))]
        panel.plot(*tail, "o", markersize=9, markerfacecolor="white", markeredgecolor="black")
    bar = figure.colorbar(image, ax=list(panels.values()), fraction=0.02, pad=0.01)
    bar.set_label("weight", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    of = "averaged over all positions" if attention.position is None else f"of position {attention.position}"
    _caption(figure, f"{attention.block}: weights {of} of {attention.shape}")
    return figure


def save(figure: Figure, path: Path) -> None:
    """As PNG, PDF or SVG by the ending, on a white ground: readable on light and dark pages."""
    endings = (".png", ".pdf", ".svg")
    if path.suffix.lower() not in endings:
        raise InputError(f"{path}: pictures end in one of {', '.join(endings)}")
    figure.savefig(path, dpi=150, facecolor="white")


def _strip(video, frames):
    """A figure with the frames in rows of eight, and {frame: its axes}."""
    columns = min(len(frames), COLUMNS)
    rows = -(-len(frames) // columns)
    height, width = video.shape[1:3]
    size = (max(PANEL * columns * width / height + 0.6, 6.0), (PANEL + 0.2) * rows + 0.3)  # inches
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    top = 1 - 0.45 / size[1]
    figure.subplots_adjust(left=0.01, right=1 - 0.6 / size[0], bottom=0.02, top=top, wspace=0.04, hspace=0.14)
    for ax in axes[len(frames) :]:
        ax.remove()
    for ax, frame in zip(axes, frames, strict=False):
        ax.imshow(video[frame])
        ax.set_title(f"frame {frame}", fontsize=8, pad=2)
        ax.set_axis_off()
    return figure, dict(zip(frames, axes, strict=False))


def _across(figure, axes, point):
    """A point of one panel in the coordinates of the figure, where arrows between panels live."""
    figure.draw_without_rendering()  # the panels keep the frames' shape only once they are laid out
    return tuple(figure.transFigure.inverted().transform(axes.transData.transform(point)))


def _caption(figure, text):
    figure.suptitle(text, x=0.01, y=1 - 0.04 / figure.get_figheight(), va="top", ha="left", fontsize=8)


def _frame_of(at: int, count: int, frames: int) -> int:
    """The frame of the clip in the middle of the at-th of `count` steps of time."""
    return min(int((at + 0.5) * frames / count), frames - 1)


def _pixel(place, grid, size) -> tuple[float, float]:
    """(x, y) of the middle of a cell (row, column)."""
    (row, column), (rows, columns), (height, width) = place, grid, size
    return ((column + 0.5) * width / columns - 0.5, (row + 0.5) * height / rows - 0.5)
