"""One run at a time in a workdir, tested with real processes that are really killed."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from nl_jax.errors import InputError
from nl_jax.training.processes import lock
from nl_jax.training.processes.lock import only_run

HOLD = """
import sys, time
from pathlib import Path
from nl_jax.training.processes.lock import only_run
with only_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Starts a process that holds the lock of tmp_path."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_told_who_is_there_and_goes_on_after_a_kill(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.3)
    with (
        pytest.raises(InputError, match=rf"{tmp_path} is in use by process {holder.pid} on .*, since 20"),
        only_run(tmp_path),
    ):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with only_run(tmp_path):
        assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()
    assert (tmp_path / lock.NAME).read_text() == ""


def test_a_killed_run_may_take_a_moment_to_be_gone(holder, tmp_path):
    threading.Timer(0.5, holder.kill).start()
    with only_run(tmp_path):
        pass


def test_the_same_process_may_ask_again(tmp_path):
    """A chain of stages does this."""
    with only_run(tmp_path), only_run(tmp_path):
        pass
    with only_run(tmp_path):
        pass


def test_a_child_does_not_keep_the_lock_of_its_dead_parent(tmp_path, monkeypatch):
    """Forked worker processes outlive a killed run for a moment."""
    monkeypatch.setattr(lock, "PATIENCE", 0.3)
    forks = HOLD.replace(
        '    print("held"',
        '    import os\n    if not os.fork():\n        time.sleep(5)\n        os._exit(0)\n    print("held"',
    )
    process = subprocess.Popen([sys.executable, "-c", forks, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    with only_run(tmp_path):
        pass
    process.stdout.close()


def write(path, **fields):
    (path / lock.NAME).write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": "2026-01-01 00:00:00"} | fields))


@pytest.mark.parametrize("locks", [True, False])
def test_another_machine_that_is_dead_is_in_nobodys_way(locks, tmp_path, monkeypatch):
    """Locks of a file system may not reach other machines, and some file systems have none."""
    monkeypatch.setattr(lock, "BEAT", 0.1)
    if not locks:
        monkeypatch.setattr(fcntl, "lockf", refuse)
    write(tmp_path, beat=7)
    with only_run(tmp_path):
        pass


@pytest.mark.parametrize("locks", [True, False])
def test_another_machine_that_is_alive_is_seen_by_its_beat(locks, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.3)
    if not locks:
        monkeypatch.setattr(fcntl, "lockf", refuse)
    write(tmp_path, beat=7)
    threading.Timer(0.2, lambda: write(tmp_path, beat=8)).start()
    with pytest.raises(InputError, match="in use by process 1 on elsewhere, since 2026-01-01"), only_run(tmp_path):
        pass


def test_another_machine_that_ends_meanwhile_leaves_the_workdir(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.3)
    write(tmp_path, beat=7)
    threading.Timer(0.2, (tmp_path / lock.NAME).write_text, [""]).start()
    with only_run(tmp_path):
        pass


def test_the_holder_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    with only_run(tmp_path):
        beats = set()
        while len(beats) < 3:
            with contextlib.suppress(ValueError):
                beats.add(json.loads((tmp_path / lock.NAME).read_bytes())["beat"])


def refuse(*_):
    raise OSError(37, "No locks available")
