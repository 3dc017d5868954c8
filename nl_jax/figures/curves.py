"""The curves of one run as a picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def plot_curves(rows: Sequence[dict[str, str]], path: Path) -> None:
    """Loss, accuracy and learning rate against the step, as PNG.

    Args:
      rows: of a metrics.csv; empty fields are values not taken at that step.
    """
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy, rate = figure.subplots(1, 3)
    _line(loss, rows, "train_loss", "training")
    loss.set(title="Loss", ylabel="cross-entropy, nats", ylim=(0, None))
    _line(accuracy, rows, "train_top1", "training clips", scale=100)
    _line(accuracy, rows, "validation_video_top1", "validation videos", scale=100, marker="o")
    _line(accuracy, rows, "validation_video_map", "validation videos, mean average precision", scale=100, marker="o")
    accuracy.set(title="Top-1 accuracy", ylabel="%", ylim=(0, 100))
    _line(rate, rows, "learning_rate", "learning rate")
    rate.set(title="Learning rate", ylim=(0, None))
    for axes in (loss, accuracy, rate):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    if accuracy.lines:
        accuracy.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=120)


def _line(axes, rows, column, label, scale=1.0, **style):
    points = [(int(row["step"]), float(row[column]) * scale) for row in rows if row.get(column)]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, **style)
