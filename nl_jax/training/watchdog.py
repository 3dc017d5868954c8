"""Tells of a run that waits for something that does not come, and of which process; ends it when that takes too long.

Every process watches itself. Of several each also leaves a note of where it is with the service that joins them, and so
can say which of the others has not come. All processes wait for the same things in the same order.
"""

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import jax

from nl_jax.errors import PREEMPTED
from nl_jax.training import hosts

EXIT_CODE = 1  # as of every run that cannot go on
LAST = 5.0  # seconds in which others say whom they wait for


class Notes:
    """What every process of a run is at, by JAX's service of several processes."""

    _FOLDER = "nl_jax/at/"
    _PREEMPTED = "RECEIVED_PREEMPTION_NOTICE"  # XLA's own, in coordination/preemption

    def __init__(self, client, process: int, count: int):
        self._client, self._process, self._processes = client, process, count

    def leave(self, count: int, what: str) -> None:
        """This process has waited `count` times, the last time for `what`."""
        self._client.key_value_set(f"{self._FOLDER}{self._process}", f"{count} {what}", allow_overwrite=True)

    def behind(self, count: int) -> list[str]:
        """A line for every other process that has waited less often."""
        found = dict(self._client.key_value_dir_get(self._FOLDER))
        lines = []
        for process in range(self._processes):
            text = next((text for key, text in found.items() if key.endswith(f"/{process}")), "0 its start")
            theirs, _, what = text.partition(" ")
            if process != self._process and int(theirs) < count:
                lines.append(f"process {process} of {self._processes} has not come, it is at {what}")
        return lines

    def asked_to_end(self) -> bool:
        """Whether any process has been: JAX's service tells all of them of a SIGTERM."""
        try:
            return bool(self._client.key_value_try_get(self._PREEMPTED))
        except Exception:  # there is no such note
            return False


def notes_of_run() -> Notes | None:
    """Those of the processes that JAX has joined; None of one process."""
    if jax.process_count() == 1:
        return None
    from jax._src import distributed  # JAX has no public way to its service's notes

    return Notes(distributed.global_state.client, jax.process_index(), jax.process_count())


def say_here(text: str) -> None:
    """A line of this process, whose output may stand among those of others."""
    where = f"process {jax.process_index()} of {jax.process_count()}: " if jax.process_count() > 1 else ""
    print(f"{where}{text}", file=sys.stderr, flush=True)


class Watchdog:
    """A context manager, in which a thread looks at what is being waited for.

    Args:
      warn_after: seconds of one wait after which, and after every doubling of which, a line is printed.
      end_after: seconds after which the process ends: what hangs in a system call hears no exception. What has been
        saved is whole, so the same command goes on from there. 0 waits for ever.
      end: what ends it.
      asked: whether this process has been asked to end. A wait that is longer than `warn_after` then ends it.
      notes: where the processes of this run leave notes; None of one process.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        warn_after: float,
        end_after: float,
        end: Callable[[int], None] = hosts.end,
        notes: Notes | None = None,
        asked: Callable[[], bool] = lambda: False,
    ):
        self._say, self._warn_after, self._end_after, self._end = say, warn_after, end_after, end
        self._notes, self._count, self._asked = notes, 0, asked
        self._wait: tuple[str, float] | None = None  # what for, since when; one reference, so no lock is needed
        self._over = threading.Event()

    @contextmanager
    def waiting_for(self, what: str) -> Iterator[None]:
        """What happens within it is a wait; messages name it so."""
        before, self._wait = self._wait, (what, time.monotonic())
        self._count += 1
        try:
            yield
        finally:
            self._wait = before

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
        told, next_line, noted = None, 0.0, 0
        period = min(1.0, self._warn_after / 4, self._end_after / 4 or 1.0)
        while not self._over.wait(period):
            wait, count = self._wait, self._count
            if self._notes and count != noted:
                self._notes.leave(count, wait[0] if wait else "computing")
                noted = count
            if wait is None:
                continue
            what, since = wait
            seconds = time.monotonic() - since
            if wait is not told:
                told, next_line = wait, self._warn_after
            if self._end_after and seconds >= self._end_after:
                late = self._late(count)
                why = late or f"{'the input pipeline' if 'batch' in what else 'it'} hangs"
                print(
                    f"error: waited {seconds:.0f} s for {what}, and input_timeout={self._end_after:g}: {why}. "
                    "The same command goes on from what is saved",
                    file=sys.stderr,
                    flush=True,
                )
                return self._end_after_others(EXIT_CODE, late)
            # A checkpoint takes as long as it takes, and is what the run was to do when asked.
            if seconds >= self._warn_after and "checkpoint" not in what and self._is_asked():
                late = self._late(count)
                print(
                    f"asked to end while it waited for {what}, for {seconds:.0f} s{late and f': {late}'}. Nothing is "
                    "saved of what came after the last checkpoint; the same command goes on from there",
                    file=sys.stderr,
                    flush=True,
                )
                return self._end_after_others(PREEMPTED, late)
            if seconds >= next_line:
                late = self._late(count)
                self._say(f"waiting for {what} for {seconds:.0f} s{late and f': {late}'}")
                next_line *= 2

    def _end_after_others(self, code: int, late: str) -> None:
        """The process that the others wait for ends last: when it is gone they cannot say so."""
        if self._notes and not late:
            time.sleep(LAST)
        self._end(code)

    def _is_asked(self) -> bool:
        return self._asked() or bool(self._notes and self._notes.asked_to_end())

    def _late(self, count: int) -> str:
        """Which of the other processes are behind this one, and at what."""
        return "; ".join(self._notes.behind(count)) if self._notes else ""
