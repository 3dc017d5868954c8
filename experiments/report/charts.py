"""Computes the positions of the lines and ticks of charts. The template of the page draws them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

from experiments.report.runs import PastRun
from nl_jax.figures.curves import LEARNING_RATE, Curves
from nl_jax.training.logs import rate_of

WIDTH, HEIGHT = 460, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 22, 10, 34  # margins of the axes
POINTS = 400  # maximum number of points of a line


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
      run: index of the run.
      label: text of the line in the key of the chart.
      dashed: whether the line is dashed.
      points: points of an SVG polyline.
      dots: (x, y, text) of single values.
    """

    run: int
    label: str
    dashed: bool
    points: str
    dots: list[tuple[float, float, str]]


@dataclass(frozen=True)
class Chart:
    """A chart of WIDTH x HEIGHT pixels; `x_ticks` and `y_ticks` are (position, text)."""

    title: str
    unit: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def curves(runs: Sequence[PastRun]) -> list[Chart]:
    """Returns charts of the metrics of the tasks, the learning rate and the throughput. Empty charts are left out."""
    wanted = {drawing.title: drawing for run in runs for drawing in (*run.task.curves, LEARNING_RATE, _throughput(run))}
    charts = []
    for drawing in wanted.values():
        series = []
        for number, run in enumerate(runs):
            for column, label in drawing.lines.items():
                if points := run.column(column, drawing.scale):
                    series.append((number, label, column.startswith("validation"), points))
        if series:
            charts.append(_chart(drawing.title, drawing.unit, series, drawing.top))
    return charts


def _throughput(run: PastRun) -> Curves:
    return Curves("Throughput", f"{run.task.unit}s per second", {rate_of(run.task.unit): "training"})


def _chart(title: str, unit: str, series, top: float | None) -> Chart:
    points = [point for *_, line in series for point in line]
    last = max(step for step, _ in points)
    highest = top or max(max(value for _, value in points), 1e-12)
    lowest = min(0.0, min(value for _, value in points))
    # Both axes begin and end at a tick.
    x_ticks = MaxNLocator(5, integer=True).tick_values(0, last)
    y_ticks = MaxNLocator(5).tick_values(lowest, highest)

    def x_of(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])

    lines = []
    for number, label, is_dotted, line in series:
        thin = _thinned(np.array(line, float))
        dots = [(x_of(step), y_of(value), f"step {step}: {value:.4g}") for step, value in line] if is_dotted else []
        lines.append(
            Line(number, label, is_dotted, " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in thin), dots[-POINTS:])
        )
    return Chart(
        title,
        unit,
        lines,
        [(x_of(tick), f"{tick:,.0f}") for tick in x_ticks],
        [(y_of(tick), f"{tick:g}" if abs(tick) > 1e-9 else "0") for tick in y_ticks],
    )


def _thinned(points: np.ndarray) -> np.ndarray:
    """Returns the points (n,2), or POINTS means of neighbouring points if there are more."""
    if len(points) <= POINTS:
        return points
    return np.array([part.mean(axis=0) for part in np.array_split(points, POINTS)])
