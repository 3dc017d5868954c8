"""A check for losses and gradients that are not finite. The run stops or skips the step, and the batch is recorded."""

import numpy as np

from nl_jax.data.dataset import Dataset
from nl_jax.errors import TrainingError
from nl_jax.places import Place, write_text
from nl_jax.training.logs import csv_lines


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
