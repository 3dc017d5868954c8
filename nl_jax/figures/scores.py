"""A picture of the scores of one video over time."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Colour-blind readers can tell these colours apart (Okabe and Ito). Marks tell the lines apart without colour.
STYLES = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"), ("#56b4e9", "v"))


def draw_scores(
    seconds: Float[np.ndarray, "v"],
    scores: Float[np.ndarray, "v k"],
    classes: Sequence[str],
    shown: Sequence[int],
    title: str = "",
) -> Figure:
    """Draws the scores of the clips of one video against time, one line for each class that is shown.

    Args:
      seconds: time of the middle of each clip.
      scores: scores of v clips for k classes, from 0 to 1.
      classes: class names by label.
      shown: labels of the classes to draw, at most five.
      title: the name of the video.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    order = np.argsort(seconds, kind="stable")
    every = max(1, len(seconds) // 60)  # clips from one mark to the next
    for of_class, (colour, mark) in zip(shown, STYLES, strict=False):
        style = dict(color=colour, marker=mark, markersize=4, markevery=every)
        axes.plot(seconds[order], 100 * scores[order, of_class], label=classes[of_class], **style)
    axes.set(title=title, xlabel="middle of the clip, seconds", ylabel="score, %", ylim=(-2, 102))
    axes.title.set_fontsize(9)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    legend = figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    for text in (axes.title, *legend.get_texts()):
        text.set_parse_math(False)  # the name of a file or of a class may have two dollar signs
    return figure
