"""Tells of an input pipeline that hangs, and ends the run when it goes on for too long."""

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

EXIT_CODE = 1  # as of every run that cannot go on


class Watchdog:
    """A context manager, in which a thread looks at what is being waited for.

    Args:
      warn_after: seconds of one wait after which, and after every doubling of which, a line is printed.
      end_after: seconds after which the process ends: what hangs in a system call hears no exception. What has been
        saved is whole, so the same command goes on from there. 0 waits for ever.
      end: what ends it.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        warn_after: float,
        end_after: float,
        end: Callable[[int], None] = os._exit,
    ):
        self._say, self._warn_after, self._end_after, self._end = say, warn_after, end_after, end
        self._wait: tuple[str, float] | None = None  # what for, since when; one reference, so no lock is needed
        self._over = threading.Event()

    @contextmanager
    def waiting_for(self, what: str) -> Iterator[None]:
        """What happens within it is a wait; messages name it so."""
        self._wait = (what, time.monotonic())
        try:
            yield
        finally:
            self._wait = None

    def over(self, batches: Iterable, what: str) -> Iterator:
        """The same batches, each waited for under the watchdog's eyes."""
        batches = iter(batches)
        for number in itertools.count():
            with self.waiting_for(f"{what} {number}"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def __enter__(self) -> "Watchdog":
        self._over.clear()
        threading.Thread(target=self._watch, daemon=True, name="input watchdog").start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()

    def _watch(self) -> None:
        told, next_line = None, 0.0
        period = min(1.0, self._warn_after / 4, self._end_after / 4 or 1.0)
        while not self._over.wait(period):
            wait = self._wait
            if wait is None:
                continue
            what, since = wait
            seconds = time.monotonic() - since
            if wait is not told:
                told, next_line = wait, self._warn_after
            if self._end_after and seconds >= self._end_after:
                print(
                    f"error: waited {seconds:.0f} s for {what}, and input_timeout={self._end_after:g}: the input "
                    "pipeline hangs. The same command goes on from what is saved",
                    file=sys.stderr,
                    flush=True,
                )
                return self._end(EXIT_CODE)
            if seconds >= next_line:
                self._say(f"waiting for {what} for {seconds:.0f} s")
                next_line *= 2
