"""Measures the accuracy by the distance of the two places that decide the label: the cue and the digit of its tint."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.reproduce import results
from experiments.reproduce.rows import PlannedRun
from experiments.reproduce.statistics import paired_difference
from nl_jax.data.embedded.long_range import CUE, LongRange
from nl_jax.errors import InputError
from nl_jax.tasks import task_of

BINS = 4  # largest number of groups for each kind of distance


@dataclasses.dataclass(frozen=True)
class Bin:
    """Test clips with a distance from `low` to `high` frames or pixels. `accuracy` and its 95% `interval` are in %."""

    low: float
    high: float
    clips: int
    accuracy: float
    interval: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Curves:
    """The accuracies of all runs of one row, by distance in frames and by distance in pixels."""

    row: str
    frames: tuple[Bin, ...]
    pixels: tuple[Bin, ...]


def distances(dataset: LongRange) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Returns the distances of n clips in frames and in pixels, from the cue's middle to the digit's middle."""
    frames, pixels = np.empty(len(dataset)), np.empty(len(dataset))
    for index in range(len(dataset)):
        shots, label = dataset.compose(index)
        cue, digit = (next(shot for shot in shots if shot.kind == kind) for kind in (CUE, label))
        frames[index] = abs(np.mean(cue.frames) - np.mean(digit.frames))
        pixels[index] = np.hypot(*(cue.places.mean(axis=0) - digit.places.mean(axis=0)))
    return frames, pixels


def curves(row: str, runs: Sequence[PlannedRun], folder: Path) -> Curves | None:
    """Returns the curves of a row, or None if no run has a result.

    Raises:
      InputError: the row is not on the embedded task.
    """
    if runs[0].config.data.name != "long_range":
        raise InputError("--distance needs the embedded task; give --laptop")
    found = [result for run in runs if (result := results.load(run, folder))]
    if not found:
        return None
    right = np.stack([result.right() for result in found])
    return Curves(row, *(bins(right, values) for values in distances(task_of(runs[0].config).open_split("test"))))


def bins(right, values) -> tuple[Bin, ...]:
    """Returns the clips in groups by distance, of similar sizes. Clips with equal distances are in the same group."""
    edges = np.unique(values)  # the lowest distance of each group
    if len(edges) > BINS:
        edges = np.unique(np.quantile(values, np.arange(BINS) / BINS, method="nearest"))
    group = np.searchsorted(edges, values, side="right") - 1
    found = []
    for number in np.unique(group):
        of_group = right[:, group == number]
        mean, low, high = paired_difference(of_group, np.zeros_like(of_group))
        inside = values[group == number]
        interval = (100 * low, 100 * high)
        found.append(Bin(float(inside.min()), float(inside.max()), of_group.shape[1], 100 * mean, interval))
    return tuple(found)


def markdown(every: Sequence[Curves]) -> str:
    """Returns two Markdown tables, by frames and by pixels, with one line per row and one column per group of clips."""
    parts = []
    for unit in ("frames", "pixels"):
        of_row = {curve.row: getattr(curve, unit) for curve in every}
        first = next(iter(of_row.values()))
        head = ["row", *(f"{_span(found)} {unit}, {found.clips} clips" for found in first)]
        body = [
            [row, *(f"{b.accuracy:.1f} [{b.interval[0]:.1f}, {b.interval[1]:.1f}]" for b in found)]
            for row, found in of_row.items()
        ]
        lines = [head, ["---"] * len(head), *body]
        parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in lines))
    return "\n\n".join(parts) + "\n"


def _span(found: Bin) -> str:
    return f"{found.low:.3g}" if found.low == found.high else f"{found.low:.3g} to {found.high:.3g}"


def plot(every: Sequence[Curves], path: Path) -> None:
    """Draws the accuracy of every row against the distance in frames and in pixels, as PNG."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, unit in zip(figure.subplots(1, 2, sharey=True), ("frames", "pixels"), strict=True):
        for curve in every:
            found = getattr(curve, unit)
            middle = [(b.low + b.high) / 2 for b in found]
            accuracy = np.array([b.accuracy for b in found])
            low, high = np.array([b.interval for b in found]).T
            error = np.maximum(0, [accuracy - low, high - accuracy])
            axes.errorbar(middle, accuracy, error, marker="o", capsize=3, label=curve.row)
        axes.set(xlabel=f"distance, {unit}", ylim=(0, 100))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("top-1, %")
    figure.axes[0].legend(frameon=False)
    figure.savefig(path, dpi=110)
