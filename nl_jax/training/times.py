"""The time of a step by its parts, and traces of steps."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from nl_jax.errors import InputError
from nl_jax.places import Place, check_local

PARTS = ("input", "compute", "checkpoint")


class Times:
    """The seconds that the loop has spent on input, on the device, and on handing over checkpoints."""

    def __init__(self):
        self._seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Counts the time inside the context for `part`, one of PARTS."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] += time.perf_counter() - began

    def take(self, steps: int) -> dict[str, float]:
        """Returns {"input_seconds", ..}: means over the steps since the last call."""
        means = {f"{part}_seconds": seconds / steps for part, seconds in self._seconds.items()}
        self._seconds = dict.fromkeys(PARTS, 0.0)
        return means


class Profile:
    """A trace of some steps, for TensorBoard or Perfetto. Other steps are not slowed down.

    Args:
      directory: folder of the trace, in a file system.
      steps: the first step and the step after the last, as numbers of finished steps. None traces nothing.
    """

    def __init__(self, directory: Place, steps: tuple[int, int] | None):
        if steps is not None:
            check_local("--profile_steps in a workdir", directory, "a trace is written to a file system")
        self._directory = directory
        self._first, self._end = steps or (-1, -1)
        self._running = False

    def before(self, step: int) -> None:
        """Calls this before every step, with the number of finished steps."""
        if self._first <= step < self._end and not self._running:
            jax.profiler.start_trace(self._directory)
            self._running = True

    def after(self, step: int, result) -> None:
        """Calls this after every step. It waits for `result` where the trace ends."""
        if self._running and step >= self._end:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Ends a trace that is still running."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()


def parse_steps(flag: str | None) -> tuple[int, int] | None:
    """Parses FIRST:END of --profile_steps. It traces the steps from FIRST up to, not including, END."""
    if not flag:
        return None
    first, _, end = flag.partition(":")
    if not (first.isdigit() and end.isdigit() and int(first) < int(end)):
        raise InputError(f"--profile_steps={flag!r}: give FIRST:END of the steps to trace, such as 100:105")
    return int(first), int(end)
