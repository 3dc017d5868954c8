"""One page, with all it needs inside, on one or several runs: curves, accuracy, mistakes, what differs.

python -m experiments.report runs/nl_c2d runs/c2d --out=report.html
"""

from pathlib import Path

import jinja2
from absl import flags

from experiments import command_line
from experiments.report import charts
from experiments.report.classes import ByClass, gains
from experiments.report.frames import Strips
from experiments.report.runs import Run, differences, read_runs
from nl_jax.errors import InputError
from nl_jax.training import workdir

OUT = flags.DEFINE_string("out", "report.html", "the page")
SHOW = flags.DEFINE_integer("show", 10, "hardest classes and most confused pairs of each run", lower_bound=1)
EXAMPLES = flags.DEFINE_integer("examples", 2, "mistakes of each of the hardest classes", lower_bound=0)
TITLE = flags.DEFINE_string("title", None, "of the page; the names of the runs by default")

ALL_GAINS = 30  # classes whose gains are all shown; of more, the highest and the lowest


def main(arguments: list[str]) -> None:
    out = Path(OUT.value)
    if out.is_dir():
        raise InputError(f"--out: {out} is a directory; give a file")
    runs = read_runs(arguments)
    page = render(runs, TITLE.value or " and ".join(run.name for run in runs), SHOW.value, EXAMPLES.value)
    workdir.make_directory(out.parent)
    out.write_text(page, encoding="utf-8", errors="backslashreplace")
    print(f"wrote {out}: {len(page) / 1e3:.0f} kB, nothing outside it is needed")


def render(runs: list[Run], title: str, show: int = 10, examples: int = 2) -> str:
    """The page, as HTML."""
    by_class = {run.name: ByClass(run) for run in runs if run.predictions}
    strips = {run.name: Strips(run) for run in runs if run.name in by_class}
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
        mistakes={name: (found.hardest(show, examples), found.most_confused(show)) for name, found in by_class.items()},
        gains=_gains(runs, by_class),
        same_list=len(lists) <= 1,
        differences=differences(runs) if len(runs) > 1 else {},
    )


def _gains(runs: list[Run], by_class: dict[str, ByClass]) -> list[dict]:
    """Of every further run over the first, for classes that both have."""
    result = []
    first, *others = [run for run in runs if run.name in by_class]
    for run in others:
        one, two = by_class[first.name], by_class[run.name]
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


if __name__ == "__main__":
    command_line.run(main, "workdirs of runs")
