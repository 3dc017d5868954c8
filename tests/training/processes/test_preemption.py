"""A signal while a run waits for its input, and at any other moment."""

import os
import queue
import signal
import threading

import pytest

from nl_jax.errors import Preempted
from nl_jax.training.processes.preemption import Preemption


def test_a_signal_ends_a_wait_for_input_at_once_and_is_else_noted():
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as preemption:
        assert not preemption.asked() and not preemption.heard()
        threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGTERM]).start()
        with pytest.raises(Preempted), preemption.interrupting():
            queue.Queue().get(timeout=60)  # nothing comes
        assert preemption.asked() and preemption.heard() and preemption.heard()
        with pytest.raises(Preempted), preemption.interrupting():
            pass
    assert signal.getsignal(signal.SIGTERM) is before
    with Preemption() as preemption:
        os.kill(os.getpid(), signal.SIGINT)
        assert preemption.asked() and preemption.heard()


def test_batches_end_at_the_signal():
    def batches():
        yield 0
        os.kill(os.getpid(), signal.SIGTERM)  # while the second batch is being made
        yield 1

    found = []
    with Preemption() as preemption, pytest.raises(Preempted):
        found += preemption.over(batches())
    assert found == [0]
    with Preemption() as preemption:
        assert list(preemption.over([0, 1, 2])) == [0, 1, 2]
