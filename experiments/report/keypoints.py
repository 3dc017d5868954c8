"""Collects the figures of every keypoint: AP, rate of exchanged left and right, and the most frequent confusions."""

from dataclasses import dataclass

from experiments.report.runs import PastRun


@dataclass(frozen=True)
class Row:
    """One keypoint of a class: its figures in each run, from 0 to 1; None for a run without figures."""

    name: str
    ap: list[float | None]
    exchanged: list[float | None]


@dataclass(frozen=True)
class Mistake:
    """A keypoint that is detected at another keypoint or at no keypoint, in `count` of `of` objects."""

    name: str
    taken_for: str
    count: int
    of: int


def rows(runs: list[PastRun]) -> list[Row]:
    """Returns a row for every keypoint of any run, in the order of the data."""
    by_run = [{_name(run, one): one for one in run.keypoints} for run in runs]
    names = dict.fromkeys(name for found in by_run for name in found)

    def of(name: str, figure: str) -> list[float | None]:
        return [found.get(name, {}).get(figure) for found in by_run]

    return [Row(name, of(name, "ap"), of(name, "exchanged")) for name in names]


def mistakes(run: PastRun, count: int) -> list[Mistake]:
    """Returns the most frequent confusions of keypoints, at most `count`."""
    found = [
        Mistake(_name(run, one), other, number, sum(one["found_at"].values()))
        for one in run.keypoints
        for other, number in one["found_at"].items()
        if other != one["keypoint"]
    ]
    return sorted(found, key=lambda mistake: -mistake.count)[:count]


def _name(run: PastRun, one: dict) -> str:
    return one["keypoint"] if len(run.classes) == 1 else f"{one['class']}: {one['keypoint']}"
