"""A picture of an image and the objects found in it: boxes, outlines, skeletons, names and scores."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib import colormaps, patheffects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nl_jax.places import Place, written

DPI = 100
LEAST = 800  # pixels of the longer side of a picture: a smaller image is enlarged, so that its words are readable
# Colours of the classes, in turn. Light colours with a dark border are visible on any background.
COLOURS = colormaps["Set3"].colors


def draw_objects(
    image: UInt8[np.ndarray, "h w 3"],
    boxes: Float[np.ndarray, "n 4"],
    words: list[str],
    labels: np.ndarray,
    masks: Bool[np.ndarray, "n h w"] | None = None,
    skeletons: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]] = (),
    side: int | None = None,
) -> Figure:
    """Draws the image, and over it each object in the colour of its class.

    Args:
      image: the image.
      boxes: x0 y0 x1 y1 in pixels.
      words: n texts, one for each box.
      labels: (n,), the number of the class of each object.
      masks: the pixels of each object. The picture shows their outlines.
      skeletons: for each object, lines from a point (2,) to a point (2,) in pixels. A line of length 0 is a dot.
      side: pixels of the longer side of the picture. The default is the longer side of the image, but at least 800.
    """
    height, width = image.shape[:2]
    scale = side / max(height, width) if side else max(1.0, LEAST / max(height, width))
    figure = Figure(figsize=(width * scale / DPI, height * scale / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(image, extent=(0, width, height, 0), interpolation="nearest")
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    for place in reversed(range(len(boxes))):  # the highest score on top
        colour = COLOURS[int(labels[place]) % len(COLOURS)]
        dark = [patheffects.withStroke(linewidth=4, foreground="black")]
        x0, y0, x1, y1 = boxes[place].tolist()
        box = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1.5)
        axes.add_patch(box).set_path_effects(dark)
        if masks is not None and masks[place].any():
            _outline(axes, masks[place], colour, dark)
        for start, end in skeletons[place] if len(skeletons) else ():
            style = {"marker": "o", "markersize": 4, "linewidth": 2, "color": colour, "path_effects": dark}
            axes.plot(*np.stack([start, end], axis=1), **style)
        room = 18 / scale  # the height of a line of text; with less room above the box, the text is in the box
        above = y0 > room
        axes.text(
            min(max(x0, 0), width * 0.98),
            y0 if above else max(y0, 0) + 3 / scale,
            words[place],
            fontsize=9,
            color="black",
            va="bottom" if above else "top",
            bbox={"facecolor": colour, "edgecolor": "black", "linewidth": 0.8, "pad": 1.5},
            clip_on=True,
            parse_math=False,  # the name of a class may have two dollar signs
        )
    return figure


def save(figure: Figure, path: Place) -> None:
    """Writes the figure as PNG."""
    with written(path) as file:
        figure.savefig(file, dpi=DPI)


def _outline(axes, mask: Bool[np.ndarray, "h w"], colour, dark) -> None:
    padded = np.pad(mask, 1).astype(float)  # closes outlines at the border of the image
    rows, columns = (np.arange(-1, side + 1) + 0.5 for side in mask.shape)
    axes.contour(columns, rows, padded, levels=[0.5], colors=[colour], linewidths=1.5).set_path_effects(dark)
