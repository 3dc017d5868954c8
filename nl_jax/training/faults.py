"""Counts the faults that a run survives up to a limit: undecodable examples, and steps that are not finite.

Each fault is written to a file of the workdir. The run stops when there are too many faults.
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

    Each process sees the examples of its own rows, and several processes can share a row. `exchange` joins the indices
    of all processes, and the first process writes them.

    Args:
      workdir: folder of the file.
      dataset: the training examples.
      example: name of an example: "video".
      max_share: the run stops if more than this share of the examples seen since its start or resumption is
        undecodable.
      rows: the rows of a batch that this process sees, if there are several processes.

    Attributes:
      indices: indices of all examples in the file.
    """

    def __init__(
        self, workdir: Place, dataset: Dataset, example: str, max_share: float = 1.0, rows: Sequence[int] = ()
    ):
        self._path = workdir / f"bad_{example}s.csv"
        self._dataset, self._example = dataset, example
        self._max_share = max_share
        self._rows = rows
        self._seen, self._bad = 0, set()  # since the start or resumption
        self._own = []  # indices that are not joined with other processes yet
        self.indices: set[int] = set()
        if self._path.exists():
            self.indices = {int(row["index"]) for row in csv.DictReader(io.StringIO(read_text(self._path), newline=""))}

    def add(self, failed) -> list[str]:
        """Notes the undecodable examples of a batch.

        With several processes it only keeps the indices until `exchange`.

        Args:
          failed: (b,f), indices of the undecodable examples of each row, padded with -1.

        Returns:
          a line for each example that is not in the file yet.

        Raises:
          InputError: the share of undecodable examples is above `max_share`. Fewer than 20 seen examples count as 20.
        """
        if jax.process_count() > 1:
            self._own.append(failed)
            return []
        return self._note(failed)

    def exchange(self) -> list[str]:
        """Applies `add` to the indices of all processes since the last call, and returns its lines.

        All processes call it after the same step. It waits for the devices, so a run does not call it after every step.

        Raises:
          InputError: as in `add`.
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
    """Checks that the loss and the gradient of steps are finite.

    It reads metrics that are already on the host, so no step waits for the check.

    Args:
      directory: folder for the list of the examples of a batch that is not finite.
      dataset: the training examples.
      example: name of an example: "video".
      allowed: number of steps that the run can skip. The run stops at the next step that is not finite.
      process: number of this process, if several processes each read a part of a batch; else None.
      skipped: number of steps that the run skipped before this process started.

    Attributes:
      skipped: number of steps that the run has skipped.
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
          steps: metrics of consecutive steps.
          indices: for each step, the indices (b,) of the examples in its batch.
          last: number of the last step.

        Raises:
          TrainingError: a step is not finite, and the run has already skipped `allowed` steps. The message names its
            batch.
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
