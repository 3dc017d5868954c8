"""Renders the page of the runs as HTML."""

from pathlib import Path

import jinja2

from experiments.report import charts, keypoints
from experiments.report.classes import ByClass, gains
from experiments.report.frames import Strips
from experiments.report.objects import Objects
from experiments.report.runs import PastRun, differences

ALL_GAINS = 30  # maximum number of gains; with more classes the page shows the highest and the lowest gains


def render(runs: list[PastRun], title: str, show: int = 10, examples: int = 2) -> str:
    """Returns the page as HTML.

    Args:
      runs: the runs to compare.
      title: title of the page.
      show: number of classes, pairs, misses and false alarms of each run.
      examples: number of mistakes of each of the hardest classes.
    """
    by_class = {run.name: ByClass(run) for run in runs if run.predictions}
    strips = {run.name: Strips(run) for run in runs if run.name in by_class}
    detectors = [run for run in runs if run.found and (run.found / "ap_by_class.json").exists()]
    lists = {run.results["list"] for run in runs if run.results}
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("template.html").render(
        title=title,
        runs=runs,
        charts=charts.curves(runs),
        drawing=charts,
        by_class=by_class,
        strips=strips,
        objects={run.name: Objects(run, show) for run in detectors},
        mistakes={name: (found.hardest(show, examples), found.most_confused(show)) for name, found in by_class.items()},
        gains=_gains(runs, by_class),
        keypoints=keypoints.rows(runs),
        keypoint_mistakes={run.name: keypoints.mistakes(run, show) for run in runs if run.keypoints},
        same_list=len(lists) <= 1,
        figures={name: label for run in runs for name, label in run.task.result_figures.items()},
        differences=differences(runs) if len(runs) > 1 else {},
    )


def _gains(runs: list[PastRun], by_class: dict[str, ByClass]) -> list[dict]:
    """Returns the gains of every further run over the first run, by class."""
    result = []
    tested = [run for run in runs if run.name in by_class]
    for run in tested[1:]:
        first, (one, two) = tested[0], (by_class[tested[0].name], by_class[run.name])
        if one.classes != two.classes or one.measure != two.measure:
            result.append({"first": first.name, "second": run.name, "rows": [], "left_out": 0, "largest": 1.0})
            continue
        rows = gains(one, two)
        shown = rows if len(rows) <= ALL_GAINS else rows[: ALL_GAINS // 2] + rows[-ALL_GAINS // 2 :]
        largest = max((abs(gain) for *_, gain in rows), default=0) or 1.0
        left_out = len(rows) - len(shown)
        result.append(
            {"first": first.name, "second": run.name, "rows": shown, "left_out": left_out, "largest": largest}
        )
    return result
