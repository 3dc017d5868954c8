"""The rise of training losses above the losses of the baseline. It shows whether new blocks disturb a network."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from experiments.reproduce.tables import Row, signed

EARLY = 0.2  # fraction of the steps; in these steps no network leaves the plateau of the embedded task


@dataclasses.dataclass(frozen=True)
class Dip:
    """The largest difference in training loss between a row and its baseline, in nats.

    Each run is compared with the run of the baseline with the same seed, which has the same clips. The differences are
    negative if the loss of the row is always lower.

    Attributes:
      row, baseline: names of the two rows.
      runs: number of pairs of runs.
      early: largest difference between mean losses of the first steps, up to step `until`.
      all: largest difference between mean losses of all steps, up to step `steps`.
    """

    row: str
    baseline: str
    runs: int
    early: float
    until: int
    all: float
    steps: int


def dips(rows: Sequence[Row]) -> list[Dip]:
    """Returns the dip of each row that shares a seed with its baseline, where both runs have losses."""
    by_name = {row.name: row for row in rows}
    found = []
    for row in rows:
        base = by_name.get(row.baseline, row)
        pairs = [
            (ours.losses, theirs.losses)
            for ours in row.results
            for theirs in base.results
            if ours.seed == theirs.seed and ours.losses and ours.losses.keys() == theirs.losses.keys()
        ]
        if base is row or not pairs:
            continue
        steps = np.array([int(step) for step in pairs[0][0]])
        above = np.array([[ours[str(step)] - theirs[str(step)] for step in steps] for ours, theirs in pairs])
        early = steps <= max(steps[0], EARLY * steps[-1])
        found.append(
            Dip(
                row=row.name,
                baseline=base.name,
                runs=len(pairs),
                early=float(above[:, early].max()),
                until=int(steps[early][-1]),
                all=float(above.max()),
                steps=int(steps[-1]),
            )
        )
    return found


def markdown(found: Sequence[Dip]) -> str:
    """Returns a Markdown table with one line for each dip."""
    head = ("row", "above", "runs", "most in the first steps, nats", "most in all steps, nats")
    body = [
        (d.row, d.baseline, str(d.runs), f"{signed(d.early, 3)} ({d.until})", f"{signed(d.all, 3)} ({d.steps})")
        for d in found
    ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ("---",) * len(head), *body))
