"""What a run leaves in its workdir while it goes on: metrics.csv, TensorBoard events, curves.png, the bad examples."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np

from nl_jax.data.dataset import Dataset
from nl_jax.errors import InputError
from nl_jax.figures.curves import plot_curves
from nl_jax.places import Growing, Place, read_text
from nl_jax.training import hosts
from nl_jax.training.task import Task

# Of the machine, not of the network: means of a step, and the share of the peak of devices whose peak is known.
SECONDS = ("input_seconds", "compute_seconds", "checkpoint_seconds", "flops_utilisation")


def rate_of(unit: str) -> str:
    """The column of the speed of training: "clips_per_second", the median of which no pause spoils."""
    return f"{unit}s_per_second"


def timing(unit: str) -> tuple[str, ...]:
    """The columns that tell of the machine."""
    return (rate_of(unit), *SECONDS)


def columns(task: Task) -> tuple[str, ...]:
    """The columns of a task's metrics.csv."""
    metrics = [f"train_{name}" for name in task.train_figures]
    figures = [f"validation_{name}" for name in task.validation_figures]
    fixed = ["step", "learning_rate", "train_loss", *metrics, "grad_norm", "skipped_steps"]
    return (*fixed, *timing(task.unit), *figures)


class MetricsLog:
    """One row for every step that is logged; a context manager, which draws curves.png at its end.

    Rows after `step`, left by a run that was killed, are dropped on resuming. Only the main process writes.
    """

    def __init__(self, workdir: Place, step: int, task: Task, *, enabled: bool = True):
        self._path = workdir / "metrics.csv"
        self._validated_on = task.validated_on.replace(" ", "_")
        self._task, self._picture = task, workdir / "curves.png"
        self._enabled = enabled
        if not enabled:
            return
        rows = [row for row in read_metrics(self._path) if int(row["step"]) <= step]
        self._columns = columns(task)
        self._file = Growing(self._path, csv_lines(self._columns, rows, header=True))
        from tensorboardX import SummaryWriter  # imports PyTorch wherever that is installed

        self._tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """A row of metrics.csv, and the same for TensorBoard; names are those of `columns`."""
        if self._enabled:
            self._file.write(csv_lines(self._columns, [{"step": step, **values}]))
            for name, value in values.items():
                self._tensorboard.add_scalar(
                    name.replace("train_", "train/").replace("validation_", f"{self._validated_on}/"), value, step
                )

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_) -> None:
        if self._enabled:
            self._tensorboard.close()
            plot_curves(read_metrics(self._path), self._task.curves, self._picture)


def read_metrics(path: Place) -> list[dict[str, str]]:
    """The rows of a metrics.csv; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""))
    return [row for row in rows if None not in row.values() and row["step"].isdigit()]


def csv_lines(columns: Sequence[str], rows: Iterable[Mapping[str, object]], *, header: bool = False) -> str:
    """The rows as lines of a CSV file with these columns."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class BadExamples:
    """bad_videos.csv: every training example that could not be decoded, once, with the reason.

    Args:
      example: what an example is called: "video".
      max_share: of the examples seen since the start or the resumption; with more of them undecodable the run stops.
      rows: the places in a batch whose examples this process sees, where there are several.

    Of several processes each sees its own, which may be another's too where they share them: they are put together,
    and written by the first, in `exchange`.
    """

    def __init__(
        self, workdir: Place, dataset: Dataset, example: str, max_share: float = 1.0, rows: Sequence[int] = ()
    ):
        self._path = workdir / f"bad_{example}s.csv"
        self._dataset, self._example = dataset, example
        self._max_share = max_share
        self._rows = rows
        self._seen, self._bad = 0, set()  # seen since then
        self._own = []  # not yet put together with those of other processes
        self.indices: set[int] = set()
        if self._path.exists():
            self.indices = {int(row["index"]) for row in csv.DictReader(io.StringIO(read_text(self._path), newline=""))}

    def add(self, failed) -> list[str]:
        """Notes the indices (b,f) of a batch (-1 is none); returns a line for each that is new.

        Raises InputError when too many of the examples seen, which count as 20 at least, are bad.
        """
        if jax.process_count() > 1:
            self._own.append(failed)
            return []
        return self._note(failed)

    def exchange(self) -> list[str]:
        """`add` for what all processes have seen since the last time; to be called by all of them after the same step.

        Not after every step: it waits for the devices.
        """
        own, self._own = self._own, []
        if not own:
            return []
        failed = hosts.gather(np.stack(own, axis=1))  # (b,steps,f) of all processes
        _, first = np.unique(hosts.gather(np.asarray(self._rows)), return_index=True)
        return self._note(np.concatenate(failed[first]))

    def _note(self, failed) -> list[str]:
        self._seen += len(failed)
        bad = {int(index) for index in failed.ravel() if index >= 0}
        new = sorted(bad - self.indices)
        lines = []
        for index in new:
            self.indices.add(index)
            row = {"index": index, "path": self._dataset.names[index], "reason": self._dataset.failure_reason(index)}
            lines.append(f"{row['path']}: {row['reason']}")
            if jax.process_index():
                continue
            Growing(self._path).write(csv_lines(tuple(row), [row], header=not self._path.exists()))
        self._bad |= bad
        self._check_share()
        return lines

    def _check_share(self) -> None:
        seen = max(20, min(self._seen, len(self._dataset)))
        if len(self._bad) > self._max_share * seen:
            first = [f"{self._dataset.names[i]}: {self._dataset.failure_reason(i)}" for i in sorted(self._bad)[:5]]
            raise InputError(
                f"{len(self._bad)} of the first {seen} training {self._example}s cannot be decoded, max_bad_videos="
                f"{self._max_share:g} of them are allowed. All are in {self._path}; the first: {'; '.join(first)}"
            )
