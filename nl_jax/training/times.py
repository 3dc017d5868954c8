"""Measures the time of the parts of a step, and records traces of steps for a profiler."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from nl_jax.errors import InputError
from nl_jax.places import Place, check_local

PARTS = ("input", "compute", "checkpoint")


class Times:
    """Counts the seconds that the loop spends on input, on the device, and on handing over checkpoints."""

    def __init__(self):
        self._seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Adds the time inside the context to `part`, one of PARTS."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] += time.perf_counter() - began

    def take(self, steps: int) -> dict[str, float]:
        """Returns {"input_seconds": .., ..}: the mean seconds of each part over the last `steps` steps."""
        means = {f"{part}_seconds": seconds / steps for part, seconds in self._seconds.items()}
        self._seconds = dict.fromkeys(PARTS, 0.0)
        return means


class Profile:
    """A trace of some steps, for TensorBoard or Perfetto. It does not slow down other steps.

    Args:
      directory: folder of the trace, in a file system.
      steps: the first step and the step after the last, as numbers of finished steps. None traces nothing.

    Raises:
      InputError: steps are to be traced, and `directory` is in a bucket.
    """

    def __init__(self, directory: Place, steps: tuple[int, int] | None):
        if steps is not None:
            check_local("--profile_steps in a workdir", directory, "a trace is written to a file system")
        self._directory = directory
        self._first, self._end = steps or (-1, -1)
        self._running = False

    def before(self, step: int) -> None:
        """Begins the trace if it covers the next step. The loop calls this before every step.

        Args:
          step: number of finished steps.
        """
        if self._first <= step < self._end and not self._running:
            jax.profiler.start_trace(self._directory)
            self._running = True

    def after(self, step: int, result) -> None:
        """Ends the trace after its last step. The loop calls this after every step.

        Args:
          step: number of finished steps.
          result: an array of the step. The trace ends when the device has computed it.
        """
        if self._running and step >= self._end:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Ends a trace that is still running."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()


def parse_steps(flag: str | None) -> tuple[int, int] | None:
    """Returns (FIRST, END) of --profile_steps=FIRST:END, or None without the flag.

    The traced steps begin with step FIRST and end before step END.

    Raises:
      InputError: the flag has another form, or FIRST is not below END.
    """
    if not flag:
        return None
    first, _, end = flag.partition(":")
    if not (first.isdigit() and end.isdigit() and int(first) < int(end)):
        raise InputError(f"--profile_steps={flag!r}: give FIRST:END of the steps to trace, such as 100:105")
    return int(first), int(end)
