"""Writes one HTML page about one or several runs: curves, accuracy, mistakes and differences. It needs no other file.

python -m experiments.report runs/nl_c2d runs/c2d --out=report.html

The arguments are the workdirs of the runs.
"""

from absl import flags

from experiments import command_line
from experiments.report.page import render
from experiments.report.runs import read_runs
from nl_jax.errors import InputError
from nl_jax.places import make_directory, place, write_text

OUT = flags.DEFINE_string("out", "report.html", "HTML file for the page")
SHOW = flags.DEFINE_integer(
    "show",
    10,
    "number of hardest classes and of most confused pairs to show for each run; for detection, of misses and of false "
    "alarms",
    lower_bound=1,
)
EXAMPLES = flags.DEFINE_integer(
    "examples", 2, "number of mistakes to show for each of the hardest classes", lower_bound=0
)
TITLE = flags.DEFINE_string("title", None, "title of the page; by default the names of the runs")


def main(arguments: list[str]) -> None:
    out = place("--out", OUT.value)
    if out.is_dir():
        raise InputError(f"--out: {out} is a directory; give a file")
    runs = read_runs(arguments)
    page = render(runs, TITLE.value or " and ".join(run.name for run in runs), SHOW.value, EXAMPLES.value)
    make_directory(out.parent)
    write_text(out, page, errors="backslashreplace")
    print(f"wrote {out}: {len(page) / 1e3:.0f} kB")


if __name__ == "__main__":
    command_line.run(main, "workdirs of runs")
