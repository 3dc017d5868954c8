"""The files that a run writes while it goes on: metrics.csv, TensorBoard events, curves.png, the bad examples."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np

from nl_jax.data.dataset import Dataset
from nl_jax.errors import InputError
from nl_jax.figures.curves import plot_curves
from nl_jax.places import Growing, Place, read_text
from nl_jax.training.processes import hosts
from nl_jax.training.task import Task

# Columns about the machine, not the network: mean seconds of a step, and the share of the devices' peak if it is known.
SECONDS = ("input_seconds", "compute_seconds", "checkpoint_seconds", "flops_utilisation")


def rate_of(unit: str) -> str:
    """Returns the column of the throughput: "clips_per_second". Takes its median, which pauses do not change."""
    return f"{unit}s_per_second"


def timing(unit: str) -> tuple[str, ...]:
    """Returns the columns about the machine."""
    return (rate_of(unit), *SECONDS)


def columns(task: Task) -> tuple[str, ...]:
    """Returns the columns of a task's metrics.csv."""
    metrics = [f"train_{name}" for name in task.train_figures]
    figures = [f"validation_{name}" for name in task.validation_figures]
    fixed = ["step", "learning_rate", "train_loss", *metrics, "grad_norm", "skipped_steps"]
    return (*fixed, *timing(task.unit), *figures)


class MetricsLog:
    """The log of the metrics, one row for every logged step. It is a context manager and draws curves.png at its end.

    When a killed run is resumed, rows after `step` are dropped. Only the main process writes.
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
        from tensorboardX import SummaryWriter  # tensorboardX imports PyTorch where it is installed

        self._tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes a row of metrics.csv, and the same to TensorBoard. The names are those of `columns`."""
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
    """Returns the rows of a metrics.csv, without a last line that a kill cut short."""
    if not path.exists():
        return []
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""))
    return [row for row in rows if None not in row.values() and row["step"].isdigit()]


def csv_lines(columns: Sequence[str], rows: Iterable[Mapping[str, object]], *, header: bool = False) -> str:
    """Returns the rows as lines of a CSV file with these columns."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class BadExamples:
    """The log of undecodable training examples, bad_videos.csv: each example once, with the reason.

    Args:
      workdir: folder of the file.
      dataset: the training examples.
      example: name of an example: "video".
      max_share: the run stops if more than this share of the examples seen since its start or resumption
        is undecodable.
      rows: the rows of a batch that this process sees, if there are several processes.

    Each process sees the examples of its own rows, and several processes may share a row. `exchange` joins the indices
    of all processes, and the first process writes them.
    """

    def __init__(
        self, workdir: Place, dataset: Dataset, example: str, max_share: float = 1.0, rows: Sequence[int] = ()
    ):
        self._path = workdir / f"bad_{example}s.csv"
        self._dataset, self._example = dataset, example
        self._max_share = max_share
        self._rows = rows
        self._seen, self._bad = 0, set()  # since the start or resumption
        self._own = []  # indices not yet joined with those of other processes
        self.indices: set[int] = set()
        if self._path.exists():
            self.indices = {int(row["index"]) for row in csv.DictReader(io.StringIO(read_text(self._path), newline=""))}

    def add(self, failed) -> list[str]:
        """Notes the indices (b,f) of a batch (-1 is none). Returns a line for each new one.

        Raises InputError if too many of the examples seen are bad. Fewer than 20 seen examples count as 20.
        """
        if jax.process_count() > 1:
            self._own.append(failed)
            return []
        return self._note(failed)

    def exchange(self) -> list[str]:
        """Applies `add` to the indices of all processes since the last call. All processes call it after the same step.

        Do not call it after every step, because it waits for the devices.
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
                f"{len(self._bad)} of the first {seen} training {self._example}s cannot be decoded, more than the "
                f"share max_bad_videos={self._max_share:g}. {self._path} lists them; the first: {'; '.join(first)}"
            )
