"""What a run leaves in its workdir while it goes on: metrics.csv, TensorBoard events, curves.png, bad_videos.csv."""

import csv
from pathlib import Path

import jax
import numpy as np

from nl_jax.errors import InputError
from nl_jax.figures.curves import plot_curves
from nl_jax.training import hosts

VALIDATION = ("video_top1", "video_top5", "clip_top1", "clip_top5", "video_map")
# Of the machine, not of the network: means of a step, and the share of the peak of devices whose peak is known.
TIMING = ("clips_per_second", "input_seconds", "compute_seconds", "checkpoint_seconds", "flops_utilisation")
COLUMNS = (
    *("step", "learning_rate", "train_loss", "train_top1", "grad_norm", "skipped_steps", *TIMING),
    *(f"validation_{name}" for name in VALIDATION),
)

_NAMES = {"encoding": "utf-8", "errors": "surrogateescape"}  # file names need not be UTF-8


class MetricsLog:
    """One row for every step that is logged; a context manager, which draws curves.png at its end.

    Rows after `step`, left by a run that was killed, are dropped on resuming. Only the main process writes.
    """

    def __init__(self, workdir: Path, step: int, *, enabled: bool = True):
        self._path = workdir / "metrics.csv"
        self._curves = workdir / "curves.png"
        self._enabled = enabled
        if not enabled:
            return
        rows = [row for row in read_metrics(self._path) if int(row["step"]) <= step]
        # Rewritten beside and moved into place: a kill in between leaves the old file.
        partial = self._path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(self._path)
        self._file = self._path.open("a", newline="", buffering=1)
        self._writer = csv.DictWriter(self._file, COLUMNS)
        from tensorboardX import SummaryWriter  # imports PyTorch wherever that is installed

        self._tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """A row of metrics.csv, and the same for TensorBoard; names are those of COLUMNS."""
        if self._enabled:
            self._writer.writerow({"step": step, **values})
            for name, value in values.items():
                self._tensorboard.add_scalar(
                    name.replace("train_", "train/").replace("validation_", "validation/"), value, step
                )

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_) -> None:
        if self._enabled:
            self._file.close()
            self._tensorboard.close()
            plot_curves(read_metrics(self._path), self._curves)


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values() and row["step"].isdigit()]


class BadVideos:
    """bad_videos.csv: every training video that could not be decoded, once, with the reason.

    Args:
      max_share: of the videos seen since the start or the resumption; with more of them undecodable the run stops.

    Of several processes each sees its own: they are put together, and written by the first, in `exchange`.
    """

    def __init__(self, workdir: Path, dataset, max_share: float = 1.0):
        self._path = workdir / "bad_videos.csv"
        self._dataset = dataset
        self._max_share = max_share
        self._clips, self._bad = 0, set()  # seen since then
        self._own = []  # not yet put together with those of other processes
        self.indices: set[int] = set()
        if self._path.exists():
            with self._path.open(newline="", **_NAMES) as file:
                self.indices = {int(row["index"]) for row in csv.DictReader(file)}

    def add(self, failed) -> list[str]:
        """Notes the indices (b,f) of a batch (-1 is none); returns a line for each that is new.

        Raises InputError when too many of the videos seen, which count as 20 at least, are bad.
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
        return self._note(hosts.gather(np.concatenate(own))) if own else []

    def _note(self, failed) -> list[str]:
        self._clips += len(failed)
        bad = {int(index) for index in failed.ravel() if index >= 0}
        new = sorted(bad - self.indices)
        lines = []
        for index in new:
            self.indices.add(index)
            row = {"index": index, "path": self._dataset.names[index], "reason": self._dataset.failure_reason(index)}
            lines.append(f"{row['path']}: {row['reason']}")
            if jax.process_index():
                continue
            exists = self._path.exists()
            with self._path.open("a", newline="", **_NAMES) as file:
                writer = csv.DictWriter(file, row)
                if not exists:
                    writer.writeheader()
                writer.writerow(row)
        self._bad |= bad
        self._check_share()
        return lines

    def _check_share(self) -> None:
        seen = max(20, min(self._clips, len(self._dataset)))
        if len(self._bad) > self._max_share * seen:
            first = [f"{self._dataset.names[i]}: {self._dataset.failure_reason(i)}" for i in sorted(self._bad)[:5]]
            raise InputError(
                f"{len(self._bad)} of the first {seen} training videos cannot be decoded, max_bad_videos="
                f"{self._max_share:g} of them are allowed. All are in {self._path}; the first: {'; '.join(first)}"
            )
