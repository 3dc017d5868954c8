"""Where the time of a step goes, and traces of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from nl_jax.errors import InputError
from nl_jax.places import Place, check_local

PARTS = ("input", "compute", "checkpoint")


class Times:
    """Seconds that the loop has waited for its input, for the device, and for checkpoints to be handed over."""

    def __init__(self):
        self._seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Counts what happens within it as time of that one of PARTS."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] += time.perf_counter() - began

    def take(self, steps: int) -> dict[str, float]:
        """{"input_seconds", ..}: means of the steps since the last call."""
        means = {f"{part}_seconds": seconds / steps for part, seconds in self._seconds.items()}
        self._seconds = dict.fromkeys(PARTS, 0.0)
        return means


class Profile:
    """A trace of some steps, for TensorBoard or Perfetto; outside of them it costs nothing.

    Args:
      steps: the first, and the one after the last, counted as the loop counts finished steps; None traces nothing.
    """

    def __init__(self, directory: Place, steps: tuple[int, int] | None):
        if steps is not None:
            check_local("--profile_steps in a workdir", directory, "a trace is written to a file system")
        self._directory = directory
        self._first, self._end = steps or (-1, -1)
        self._running = False

    def before(self, step: int) -> None:
        """To be called before every step, with the number of those that are done."""
        if self._first <= step < self._end and not self._running:
            jax.profiler.start_trace(self._directory)
            self._running = True

    def after(self, step: int, result) -> None:
        """To be called after every step; waits for `result` where the trace ends."""
        if self._running and step >= self._end:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Ends a trace that is still going on."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()


def parse_steps(flag: str | None) -> tuple[int, int] | None:
    """FIRST:END of --profile_steps, which traces steps FIRST up to, not including, END."""
    if not flag:
        return None
    first, _, end = flag.partition(":")
    if not (first.isdigit() and end.isdigit() and int(first) < int(end)):
        raise InputError(f"--profile_steps={flag!r}: give FIRST:END of the steps to trace, such as 100:105")
    return int(first), int(end)
