"""Being told to stop: a run asked to end saves first, on all hosts after the same step."""

import itertools
import signal
import threading
from collections.abc import Iterable, Iterator

import jax
from jax.experimental import multihost_utils

from nl_jax.errors import Preempted

# Moments at which this process has asked, in all runs of its life: the service of several hosts knows one row of them.
_MOMENTS = itertools.count(1)


class Preemption:
    """A context manager inside which SIGTERM and Ctrl-C are noted instead of ending the program at once.

    A second signal acts as it would have. On several hosts JAX's own service hears SIGTERM on any of them, and names
    one moment to all. What has been asked for once stays asked for.
    """

    def __init__(self):
        self._asked = False
        self._before = {}

    def asked(self) -> bool:
        """Whether the run is to save and end now. Every host has to ask at the same moments: after every step, say."""
        if jax.process_count() > 1:
            self._asked |= multihost_utils.reached_preemption_sync_point(next(_MOMENTS))
        return self._asked

    def over(self, batches: Iterable) -> Iterator:
        """The same batches, as many on every host. Raises Preempted in place of the next where it is asked for."""
        for batch in batches:
            if self.asked():
                raise Preempted("asked to end")
            yield batch

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
