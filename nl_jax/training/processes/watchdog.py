"""A watchdog that reports a run that waits too long, and names the process that is late. In the end it ends the run.

Every process watches itself. With several processes, each process also leaves a note of its position with the service
that joins the processes. So each process can name a late process. All processes wait for the same things in the same
order.
"""

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import jax

from nl_jax.errors import PREEMPTED
from nl_jax.training.processes import hosts

EXIT_CODE = 1  # the code of every run that cannot continue
LAST = 5.0  # seconds in which the other processes can report the late process


class Notes:
    """Notes of the position of every process of a run, kept by JAX's service of several processes.

    Args:
      client: JAX's client of the service.
      process: index of this process.
      count: number of processes.
    """

    _FOLDER = "nl_jax/at/"
    _PREEMPTED = "RECEIVED_PREEMPTION_NOTICE"  # XLA's name, in coordination/preemption

    def __init__(self, client, process: int, count: int):
        self._client, self._process, self._processes = client, process, count

    def leave(self, count: int, what: str) -> None:
        """Notes that this process has waited `count` times, the last time for `what`."""
        self._client.key_value_set(f"{self._FOLDER}{self._process}", f"{count} {what}", allow_overwrite=True)

    def behind(self, count: int) -> list[str]:
        """Returns a line for every other process that has waited less often."""
        found = dict(self._client.key_value_dir_get(self._FOLDER))
        lines = []
        for process in range(self._processes):
            text = next((text for key, text in found.items() if key.endswith(f"/{process}")), "0 its start")
            theirs, _, what = text.partition(" ")
            if process != self._process and int(theirs) < count:
                lines.append(f"process {process} of {self._processes} has not come, it is at {what}")
        return lines

    def asked_to_end(self) -> bool:
        """Returns whether any process was asked to stop. JAX's service tells all processes about a SIGTERM."""
        try:
            return bool(self._client.key_value_try_get(self._PREEMPTED))
        except Exception:  # there is no such note
            return False


def notes_of_run() -> Notes | None:
    """Returns the notes of the processes that JAX has joined, or None for one process."""
    if jax.process_count() == 1:
        return None
    from jax._src import distributed  # JAX has no public access to the notes of its service

    return Notes(distributed.global_state.client, jax.process_index(), jax.process_count())


def say_here(text: str) -> None:
    """Prints a line that names this process, because several processes may print to one place."""
    where = f"process {jax.process_index()} of {jax.process_count()}: " if jax.process_count() > 1 else ""
    print(f"{where}{text}", file=sys.stderr, flush=True)


class Watchdog:
    """A context manager in which a thread watches the waits of the run.

    Args:
      say: prints a line.
      warn_after: seconds of one wait before a line is printed. Further lines follow whenever the time has doubled.
      end_after: seconds of one wait before the process ends, because code that hangs in a system call hears no
        exception. Saved files are whole, so the same command continues from them. 0 waits for ever.
      end: ends the process.
      asked: whether this process was asked to stop. Then a wait longer than `warn_after` ends it.
      notes: the notes of this run's processes, or None for one process.
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
        self._wait: tuple[str, float] | None = None  # (name, start) of the present wait; one reference needs no lock
        self._over = threading.Event()

    @contextmanager
    def waiting_for(self, what: str) -> Iterator[None]:
        """Counts the time inside the context as a wait for `what`, a name for messages."""
        before, self._wait = self._wait, (what, time.monotonic())
        self._count += 1
        try:
            yield
        finally:
            self._wait = before

    def over(self, batches: Iterable, what: str) -> Iterator:
        """Yields the same batches, and watches the wait for each batch."""
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
                    "The same command continues from the saved state",
                    file=sys.stderr,
                    flush=True,
                )
                return self._end_after_others(EXIT_CODE, late)
            # A run that was asked to stop must save its checkpoint, which may take long.
            if seconds >= self._warn_after and "checkpoint" not in what and self._is_asked():
                late = self._late(count)
                print(
                    f"asked to stop while it waited for {what}, for {seconds:.0f} s{late and f': {late}'}. "
                    "Nothing after the last checkpoint is saved; the same command continues from there",
                    file=sys.stderr,
                    flush=True,
                )
                return self._end_after_others(PREEMPTED, late)
            if seconds >= next_line:
                late = self._late(count)
                self._say(f"waiting for {what} for {seconds:.0f} s{late and f': {late}'}")
                next_line *= 2

    def _end_after_others(self, code: int, late: str) -> None:
        """Ends this process. If other processes wait for this process, they end first.

        Once this process is gone, they can no longer report it.
        """
        if self._notes and not late:
            time.sleep(LAST)
        self._end(code)

    def _is_asked(self) -> bool:
        return self._asked() or bool(self._notes and self._notes.asked_to_end())

    def _late(self, count: int) -> str:
        """Returns the names and positions of the processes that are behind this process."""
        return "; ".join(self._notes.behind(count)) if self._notes else ""
