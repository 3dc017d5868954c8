"""Preemption: a run that is asked to stop first saves its state, on all hosts after the same step."""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Iterable, Iterator

import jax
from jax.experimental import multihost_utils

from nl_jax.errors import Preempted

# Numbers the calls of `asked` in all runs of this process. JAX's service of several hosts counts them in one sequence.
_MOMENTS = itertools.count(1)


class Preemption:
    """A context manager in which SIGTERM and Ctrl-C set a flag instead of ending the program at once.

    A second signal has its usual effect. With several hosts, JAX's service hears a SIGTERM on any host, and tells all
    hosts to stop at the same call of `asked`. A request to stop stays set.
    """

    def __init__(self):
        self._asked = self._heard = self._active = self._interrupts = False
        self._before, self._pipe = {}, ()

    def asked(self) -> bool:
        """Returns whether the run must save and end now.

        Every host must call it equally often, such as after each step.
        """
        if jax.process_count() > 1:
            self._asked |= multihost_utils.reached_preemption_sync_point(next(_MOMENTS))
        return self._asked

    def heard(self) -> bool:
        """Returns whether a signal has come.

        Another thread calls it, because the main thread may hang in a system call.
        """
        if self._pipe and not self._heard:
            with contextlib.suppress(BlockingIOError):
                self._heard = bool(os.read(self._pipe[0], 1))
        return self._heard

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Returns a context for waiting for input that may never come. A signal ends the wait and raises Preempted.

        With several processes it does nothing, because no process can end alone.
        """
        self._interrupts = True
        try:
            if self._asked and self._active:
                raise Preempted("asked to stop")
            yield
        finally:
            self._interrupts = False

    def over(self, batches: Iterable) -> Iterator:
        """Yields the batches, the same number on every host.

        Raises:
          Preempted: the run was asked to stop. It takes the place of the next batch.
        """
        batches = iter(batches)
        while True:
            with self.interrupting():
                batch = next(batches, None)
            if batch is None:
                return
            if self.asked():
                raise Preempted("asked to stop")
            yield batch

    def __enter__(self) -> "Preemption":
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._active = True
            if not self._pipe:
                self._pipe = os.pipe()
                for end in self._pipe:
                    os.set_blocking(end, False)
            self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        self._restore()
        if self._active:
            signal.set_wakeup_fd(self._wakeup)
            self._active = False

    def __del__(self) -> None:
        for end in self._pipe:  # not earlier, because another thread may read
            os.close(end)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, *_) -> None:
        self._asked = True
        self._restore()
        if self._interrupts:
            self._interrupts = False
            raise Preempted("asked to stop")
