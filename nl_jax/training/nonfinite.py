"""When a loss or a gradient is not finite the run stops, or skips the step; the batch is written down."""

import numpy as np

from nl_jax.data.dataset import Dataset
from nl_jax.errors import TrainingError
from nl_jax.places import Place, write_text
from nl_jax.training.logs import csv_lines


class NonFinite:
    """Looks at the metrics of steps once they are on the host, so nothing waits for it.

    Args:
      example: what an example is called: "video".
      allowed: steps of the run that may be skipped (by `make_train_step`); with one more it stops.
      skipped: those before this process's life.
      process: number of this process among those that each read a part of a batch; None if there is one.
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
        """The metrics of the steps whose loss and gradient are finite.

        Args:
          steps: metrics of every step up to `last`.
          indices: of the examples (b,) in the batch of each.

        Raises:
          TrainingError: for the first step that was not to be skipped, with its batch.
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
                limit = f" after {self._allowed} that were skipped" if self._allowed else ""
                raise TrainingError(
                    f"the {bad[0]} is {metrics[bad[0]]} at step {at}{limit}, learning rate "
                    f"{metrics['learning_rate']:.3g}, batch {at - 1}, whose {self._example}s are in {path}; "
                    "nothing was saved since. --debug_nans goes on from the last checkpoint and stops at the "
                    "operation; else try a lower learning_rate or more warmup_steps, in a new workdir, or "
                    "skip_nonfinite"
                )
        return result

    def _write(self, step: int, index: np.ndarray) -> Place:
        path = self._directory / f"nonfinite_step{step}{self._suffix}.csv"
        rows = [{"index": i, "path": self._dataset.names[i]} for i in map(int, index)]
        write_text(path, csv_lines(("index", "path"), rows, header=True))
        return path
