"""Writes the tables with our figures beside the paper's, as Markdown, as HTML and as pictures."""

import dataclasses
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.reproduce.results import Result
from experiments.reproduce.statistics import mean_and_spread, paired_difference

MINUS = "\N{MINUS SIGN}"


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
      name: name in ROWS of the table's config.
      baseline: name of the row to compare with.
      paper: the paper's figure, in percent.
      paper_ratios: parameters and FLOPs in the paper, each over the number of the baseline.
      results: results of the finished runs.
      wanted: number of runs that the user asked for.
      parameters: number of parameters of the network.
      macs: multiply-adds of a clip.
      figure: name of the measured figure, such as "top-1".
      others: {name of another figure of the results: heading of its column}.
    """

    name: str
    baseline: str | None
    paper: float | None
    paper_ratios: tuple[float, float] | None
    results: tuple[Result, ...]
    wanted: int
    parameters: int
    macs: int
    figure: str = "top-1"
    others: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def accuracies(self) -> np.ndarray:
        """Returns the accuracy of each run, in percent."""
        return np.array([100 * result.accuracy for result in self.results])

    def missing(self) -> str:
        """Returns a note if the row has fewer runs than the user asked for, and "" otherwise."""
        return "" if len(self.results) >= self.wanted else f"not enough runs ({len(self.results)} of {self.wanted})"

    def difference(self, base: "Row") -> "Difference | None":
        """Returns the difference from the baseline over the seeds that both have, or None if these are too few."""
        pairs = [
            (ours.measured(), theirs.measured())
            for ours in self.results
            for theirs in base.results
            if ours.seed == theirs.seed and ours.list == theirs.list and bool(ours.correct) == bool(theirs.correct)
        ]
        # A single pair of runs that have only one figure each gives no interval.
        if base is self or len(pairs) < (1 if all(result.correct for result in self.results) else 2):
            return None
        ours, theirs = (np.stack(part) for part in zip(*pairs, strict=True))
        better = int((ours.mean(axis=1) > theirs.mean(axis=1)).sum())
        return Difference(*(100 * value for value in paired_difference(ours, theirs)), better, len(ours))


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference between two rows in points, its 95% interval, and the number of seeds with a better first row."""

    mean: float
    low: float
    high: float
    better: int
    seeds: int

    def __str__(self) -> str:
        return f"{signed(self.mean)} [{signed(self.low)}, {signed(self.high)}], {self.better} of {self.seeds}"


HEAD = (
    "row",
    "runs",
    "top-1, %",
    "each run",
    "difference from the baseline [95%], seeds better",
    "parameters",
    "FLOPs",
    "paper: top-1",
    "difference",
    "parameters, FLOPs",
)


def head(rows: Sequence[Row]) -> tuple[str, ...]:
    """Returns the headings of the columns, with the names of the figures that these rows measure."""
    cells = [cell.replace("top-1", rows[0].figure) for cell in HEAD]
    return (*cells[:4], *(f"{words}, %" for words in rows[0].others.values()), *cells[4:])


def lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Returns the cells of a table below `head(rows)`, one tuple per row."""
    by_name = {row.name: row for row in rows}
    found = []
    for row in rows:
        base = by_name.get(row.baseline)
        difference, paper_difference = "", ""
        if base is not None and (found_difference := row.difference(base)):
            difference = str(found_difference)
        if base not in (None, row) and row.paper and base.paper:
            paper_difference = signed(row.paper - base.paper)
        ratios = (
            ("", "") if base is None else (f"{row.parameters / base.parameters:.2f}x", f"{row.macs / base.macs:.2f}x")
        )
        found.append(
            (
                row.name,
                row.missing() or str(len(row.results)),
                _summed(row.accuracies()),
                " ".join(f"{value:.0f}" for value in row.accuracies()),
                *(_summed([100 * r.figures[name] for r in row.results if name in r.figures]) for name in row.others),
                difference,
                *ratios,
                f"{row.paper:.1f}" if row.paper else "",
                paper_difference,
                "{}x, {}x".format(*row.paper_ratios) if row.paper_ratios else "",
            )
        )
    return found


def _summed(percents: Sequence[float] | np.ndarray) -> str:
    """Returns the mean and the standard deviation over the runs as text; "" without runs."""
    if not len(percents):
        return ""
    mean, spread = mean_and_spread(np.asarray(percents))
    return f"{mean:.1f}" + ("" if spread is None else f" ± {spread:.1f}")


def markdown(rows: Sequence[Row]) -> str:
    """Returns the table of the rows as Markdown."""
    cells = [head(rows), tuple("---" for _ in head(rows)), *lines(rows)]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse }}
th, td {{ padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child, td:first-child {{ text-align: left }}
img {{ max-width: 100% }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


def html_page(title: str, sections: Sequence[tuple[str, Sequence[Row], str]]) -> str:
    """Returns an HTML page of tables. A section is (heading, rows, file of the picture below the table)."""
    body = []
    for heading, rows, picture in sections:
        body.append(f"<h2>{html.escape(heading)}</h2>\n<table>")
        body.append("<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head(rows)) + "</tr>")
        body += ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>" for cells in lines(rows)]
        body.append(f'</table>\n<p><img src="{html.escape(picture)}" alt="{html.escape(heading)}"></p>')
    return PAGE.format(title=html.escape(title), body="\n".join(body))


def plot(heading: str, rows: Sequence[Row], path: Path) -> None:
    """Draws every run as a dot and every mean as a bar, with the paper's figures beside them, as PNG."""
    figure = Figure(figsize=(9, 0.9 + 0.35 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    has_paper = any(row.paper for row in rows)
    ours, *paper = figure.subplots(1, 2 if has_paper else 1, sharey=True, squeeze=False)[0]
    places = np.arange(len(rows))[::-1]
    for place, row in zip(places, rows, strict=True):
        found = row.accuracies()
        if len(found):
            ours.plot([found.mean()] * 2, [place - 0.3, place + 0.3], color="C0", linewidth=2)
            ours.plot(found, np.full(len(found), place), "o", color="C0", alpha=0.5, markeredgewidth=0)
        else:
            ours.text(0.02, place, "not run", va="center", color="gray", transform=ours.get_yaxis_transform())
        if row.paper:
            paper[0].plot(row.paper, place, "D", color="C1")
    ours.set(
        yticks=places, yticklabels=[row.name for row in rows], xlabel=f"{rows[0].figure}, %", title=f"{heading}: ours"
    )
    for axes in paper:
        axes.set(xlabel=f"{rows[0].figure}, %", title="the paper")
    for axes in (ours, *paper):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def signed(value: float, digits: int = 1) -> str:
    """Returns the value as text with its sign; zero has none."""
    text = f"{abs(value):.{digits}f}"
    return text if not float(text) else f"{'+' if value > 0 else MINUS}{text}"
