"""Being told to stop: a run asked to end saves first, on all hosts after the same step."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Preemption:
    """A context manager inside which SIGTERM and Ctrl-C are noted instead of ending the program at once.

    A second signal acts as it would have. On several hosts JAX's own service hears SIGTERM on any of them, and names
    one step to all.
    """

    def __init__(self):
        self._asked = False
        self._before = {}

    def asked(self, step: int) -> bool:
        """Whether the run is to save and end now, after `step`. Every host has to ask after every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def __enter__(self) -> "Preemption":
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, *_) -> None:
        self._asked = True
        self.__exit__()
