"""A picture of the curves of one run."""

import dataclasses
from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nl_jax.places import Place, written


@dataclasses.dataclass(frozen=True)
class Curves:
    """The columns of a metrics.csv that are drawn in one plot.

    Attributes:
      title: title of the plot.
      unit: unit of the y axis.
      lines: maps a column to its label. A column of a validation has a mark at every value.
      scale: factor of the values.
      top: end of the y axis, in its unit. None fits the values.
    """

    title: str
    unit: str
    lines: Mapping[str, str]
    scale: float = 1.0
    top: float | None = None


LEARNING_RATE = Curves("Learning rate", "", {"learning_rate": "learning rate"})


def plot_curves(rows: Sequence[dict[str, str]], curves: Sequence[Curves], path: Place) -> None:
    """Writes a PNG with the curves and the learning rate against the step.

    Args:
      rows: the rows of a metrics.csv. An empty field is a value that was not measured at that step.
      curves: the plots, which stand side by side.
      path: path of the picture.
    """
    curves = [*curves, LEARNING_RATE]
    figure = Figure(figsize=(4 * len(curves), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, drawing in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        for column, label in drawing.lines.items():
            points = [(int(row["step"]), float(row[column]) * drawing.scale) for row in rows if row.get(column)]
            if points:
                marker = "o" if column.startswith("validation_") else None
                axes.plot(*zip(*points, strict=True), label=label, marker=marker)
        axes.set(title=drawing.title, ylabel=drawing.unit, ylim=(0, drawing.top), xlabel="step")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if len(axes.lines) > 1:
            axes.legend(loc="best", frameon=False)
    with written(path) as file:
        figure.savefig(file, dpi=120)
