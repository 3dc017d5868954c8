"""Faults of a run that it survives up to a limit: examples that cannot be decoded, and steps that are not finite.

Each fault is written to a file of the workdir. The run stops where there are too many.
"""

import csv
import io
from collections.abc import Sequence

import jax
import numpy as np

from nl_jax.data.dataset import Dataset
from nl_jax.errors import InputError, TrainingError
from nl_jax.places import Growing, Place, read_text, write_text
from nl_jax.training.logs import csv_lines
from nl_jax.training.processes import hosts


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


class NonFinite:
    """A check of the metrics of steps. It reads them once they are on the host, so no step waits for it.

    Args:
      directory: folder for the list of the batch's examples.
      dataset: the training examples.
      example: name of an example: "video".
      allowed: number of steps of the run that `make_train_step` may skip. The run stops at the next one.
      process: number of this process, if several processes each read a part of a batch; else None.
      skipped: number of steps skipped before this process started.
    """

    def __init__(
        self,
        directory: Place,
        dataset: Dataset,
        example: str,
        allowed: int,
        process: int | None = None,
        skipped: int = 0,
    ):
        self._directory, self._dataset, self._example, self._allowed = directory, dataset, example, allowed
        self._suffix = "" if process is None else f"_process{process}"
        self.skipped = skipped

    def finite(self, steps: list[dict[str, np.ndarray]], indices: list[np.ndarray], last: int) -> list[dict]:
        """Returns the metrics of the steps whose loss and gradient are finite.

        Args:
          steps: metrics of every step up to `last`.
          indices: for each step, the indices (b,) of the examples in its batch.
          last: number of the last step.

        Raises:
          TrainingError: for the first step that may not be skipped. The message names its batch.
        """
        result = []
        for at, (metrics, index) in enumerate(zip(steps, indices, strict=True), start=last - len(steps) + 1):
            bad = [name for name in ("loss", "grad_norm") if not np.isfinite(metrics[name])]
            if not bad:
                result.append(metrics)
                continue
            self.skipped += 1
            path = self._write(at, index)
            if self.skipped > self._allowed:
                limit = f" after {self._allowed} skipped steps" if self._allowed else ""
                raise TrainingError(
                    f"the {bad[0]} is {metrics[bad[0]]} at step {at}{limit}, learning rate "
                    f"{metrics['learning_rate']:.3g}, batch {at - 1}, whose {self._example}s are in {path}; "
                    "no checkpoint was saved since. --debug_nans starts from the last checkpoint and stops at the "
                    "operation. Or try a lower learning_rate or more warmup_steps in a new workdir, or skip_nonfinite"
                )
        return result

    def _write(self, step: int, index: np.ndarray) -> Place:
        path = self._directory / f"nonfinite_step{step}{self._suffix}.csv"
        rows = [{"index": i, "path": self._dataset.names[i]} for i in map(int, index)]
        write_text(path, csv_lines(("index", "path"), rows, header=True))
        return path
