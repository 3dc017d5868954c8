import os
import signal
import subprocess
import sys
import time

import pytest

from nl_jax.data.workers import Crash, map_unordered


def work(task):
    if task == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == "hang":
        time.sleep(1000)
    if task == "raise":
        raise KeyError("ours")
    return task * 2


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_every_call_gives_its_result(num_workers):
    found = dict(map_unordered(work, [1, 5, "a", 7], num_workers=num_workers, timeout=60.0))
    assert found == {0: 2, 1: 10, 2: "aa", 3: 14}


def test_nothing_to_do():
    assert list(map_unordered(work, [], num_workers=2, timeout=60.0)) == []


def test_a_crash_and_a_hang_cost_one_call_each():
    tasks = [1, "crash", 2, "hang", 3, "crash", 4]
    found = dict(map_unordered(work, tasks, num_workers=2, timeout=8.0))
    assert {index: result for index, result in found.items() if not isinstance(result, Crash)} == {
        0: 2,
        2: 4,
        4: 6,
        6: 8,
    }
    assert [str(found[index]) for index in (1, 5)] == ["the decoder crashed (exit code -11)"] * 2
    assert str(found[3]) == "decoding took more than 8 seconds"


def test_an_exception_is_passed_on():
    with pytest.raises(KeyError, match="ours"):
        list(map_unordered(work, [1, "raise"], num_workers=2, timeout=60.0))


PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_workers import work
from nl_jax.data.workers import map_unordered, _Worker
real = _Worker.__init__
def noted(self, function):
    real(self, function)
    print(self._process.pid, flush=True)
_Worker.__init__ = noted
if __name__ == "__main__":
    list(map_unordered(work, ["hang"] * 4, num_workers=2, timeout=1000.0))
"""


def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(folder=os.path.dirname(__file__)))
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment)
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    time.sleep(1)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        alive = [pid for pid in workers if os.path.exists(f"/proc/{pid}")]
        if not alive:
            return
        time.sleep(0.1)
    raise AssertionError(f"{alive} are still there")
