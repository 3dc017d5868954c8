"""One run on other devices, and as two processes of four devices each: its results, and the end of one process."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from nl_jax.tasks import restore_network
from nl_jax.training.sharding import make_mesh
from nl_jax.training.workdir import read_config

ROOT = Path(__file__).parents[2]
SMALL = [
    *("--config=configs/quickstart.py", "--config.start.stage=", "--config.steps=5", "--config.batch_size=16"),
    *("--config.recipe_batch_size=16", "--config.eval_batch_size=8", "--config.precise_bn_batches=1"),
    *("--config.eval_every=0", "--config.log_every=1", "--config.checkpoint_every=2"),
    *("--config.data.validation_size=8", "--config.data.test_size=12", "--config.optimizer.warmup_steps=2"),
    *("--config.model.width=4", "--config.model.blocks_per_stage=(1,1)", "--config.model.nonlocal_blocks.res3=(0,)"),
]
MINUTE = 60


def start(name, *arguments, devices, code=None, **environment) -> subprocess.Popen:
    """Starts a program of experiments, or Python code with these arguments."""
    program = ["-m", f"experiments.{name}"] if code is None else ["-c", code]
    return subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "COLUMNS": "200"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(name, *arguments, lowered: Path | None = None, code=None) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    # The folders for the compiled programs, if they are wanted.
    dumps = [{} if lowered is None else {"JAX_DUMP_IR_TO": str(lowered / str(i))} for i in range(2)]
    joined = [f"--coordinator=localhost:{port}", "--num_processes=2"]
    return [start(name, *arguments, *joined, f"--process_id={i}", devices=4, code=code, **dumps[i]) for i in range(2)]


def done(*processes) -> str:
    """Waits for the processes and returns the output of the first."""
    output = [process.communicate(timeout=400) for process in processes]
    for process, (_, error) in zip(processes, output, strict=True):
        assert process.returncode == 0, error
    return output[0][0]


def wait_for_rows(count: int, workdir: Path, process: subprocess.Popen) -> None:
    """Waits until `count` steps are logged or the process has ended."""
    csv = workdir / "metrics.csv"
    while process.poll() is None and not (csv.exists() and len(csv.read_text().splitlines()) > count):
        time.sleep(0.01)


def losses(workdir: Path) -> list[float]:
    lines = [line.split(",") for line in (workdir / "metrics.csv").read_text().splitlines()]
    return [float(line[lines[0].index("train_loss")]) for line in lines[1:]]


def statistics(workdir: Path) -> dict[str, np.ndarray]:
    """Returns the batch norm statistics of the newest checkpoint."""
    return jax.device_get(restore_network(workdir, make_mesh(-1, 1))[2])


def assert_same_statistics(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Compares statistics to within 1e-5 of the largest value of each array."""
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=name)


def scores(directory: Path) -> dict[str, np.ndarray]:
    with np.load(directory / "predictions.npz") as predictions:
        return {name: predictions[name] for name in ("scores", "labels", "failed")}


@pytest.fixture(scope="module")
def on_eight(tmp_path_factory):
    """The workdir of a complete run of one process on eight devices."""
    workdir = tmp_path_factory.mktemp("eight") / "run"
    done(start("train", *SMALL, f"--workdir={workdir}", devices=8))
    return workdir


def test_two_processes_are_one_run_and_compile_its_step_once(on_eight, tmp_path):
    workdir, lowered = tmp_path / "run", tmp_path / "lowered"
    done(*start_two("train", *SMALL, f"--workdir={workdir}", lowered=lowered))
    np.testing.assert_allclose(losses(workdir), losses(on_eight), rtol=1e-5)
    assert_same_statistics(statistics(workdir), statistics(on_eight))
    assert [len(list((lowered / process).glob("*_jit_train_step_*"))) for process in "01"] == [1, 1]


def test_a_lost_process_ends_the_other_and_other_devices_go_on(on_eight, tmp_path):
    arguments = (*SMALL, f"--workdir={tmp_path}")
    first, second = start_two("train", *arguments)
    wait_for_rows(3, tmp_path, first)
    second.send_signal(signal.SIGKILL)
    second.communicate()
    output, error = first.communicate(timeout=MINUTE)
    assert first.returncode != 0 and "another" in error, error  # our message, or JAX's "another task died"
    assert "on 8 device(s) of 2 processes" in output
    np.testing.assert_allclose(losses(tmp_path)[:3], losses(on_eight)[:3], rtol=1e-5)

    resumed = done(start("train", *arguments, "--config.mesh.fsdp=2", devices=2))
    assert "resumed at step 2" in resumed or "resumed at step 4" in resumed
    np.testing.assert_allclose(losses(tmp_path), losses(on_eight), rtol=1e-5)
    assert_same_statistics(statistics(tmp_path), statistics(on_eight))


def test_a_process_that_falls_silent_ends_the_other(tmp_path):
    """This is like a lost machine: no connection breaks, and no message comes."""
    first, second = start_two("train", *SMALL, "--config.steps=100000", f"--workdir={tmp_path}")
    try:
        wait_for_rows(1, tmp_path, first)
        second.send_signal(signal.SIGSTOP)
        _, error = first.communicate(timeout=MINUTE)
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
    assert first.returncode == -signal.SIGABRT and "another task died" in error, error  # JAX's message


def test_a_checkpoint_of_eight_devices_is_tested_alike_on_two_and_by_two_processes(on_eight, tmp_path):
    workdir = f"--workdir={on_eight}"
    done(start("evaluate", workdir, f"--out={tmp_path / 'two'}", devices=2))
    done(start("evaluate", workdir, f"--out={tmp_path / 'time'}", "--mesh=time=2", devices=2))
    printed = done(*start_two("evaluate", workdir, f"--out={tmp_path / 'processes'}"))
    assert printed.count("12 videos x 1 views") == 1
    expected = scores(on_eight)
    for name in ("two", "time", "processes"):
        found = scores(tmp_path / name)
        np.testing.assert_allclose(found.pop("scores"), expected["scores"], atol=1e-6)
        assert all((found[name] == expected[name]).all() for name in found)


def changed(workdir: Path, copy: Path, changes: dict) -> Path:
    """Copies a workdir and changes its config."""
    shutil.copytree(workdir, copy)
    config = read_config(copy).unlock()
    config.update_from_flattened_dict(changes)
    (copy / "config.json").write_text(config.to_json())
    return copy


@pytest.mark.parametrize("count", [1, 2])
def test_sigterm_of_one_process_ends_the_testing_of_all(on_eight, tmp_path, count):
    workdir = changed(on_eight, tmp_path / "run", {"data.test_size": 100000})  # too long to finish
    arguments = ("evaluate", f"--workdir={workdir}")
    processes = start_two(*arguments) if count == 2 else [start(*arguments, devices=8)]
    try:
        assert (
            "testing 100000 videos on 8 device(s)\n" in processes[0].stdout
        )  # reads up to this line, which is the last
        processes[-1].send_signal(signal.SIGTERM)
        output = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [75] * count, output
    assert all("asked to stop: nothing is written" in printed for printed, _ in output)
    assert not (workdir / "evaluate").exists()


# No video of the test ever comes.
HANGING = """
import runpy, time
from nl_jax.data.embedded.long_range import LongRange
LongRange.test_example = lambda *arguments: time.sleep(3600)
runpy.run_module("experiments.evaluate", run_name="__main__", alter_sys=True)
"""


def test_testing_ends_where_its_input_hangs(on_eight, tmp_path):
    workdir = changed(on_eight, tmp_path / "run", {"input_warning": 0.5, "input_timeout": 1.0})
    process = start("evaluate", f"--workdir={workdir}", devices=8, code=HANGING)
    _, error = process.communicate(timeout=400)
    assert process.returncode == 1 and "for batch for testing 0, and input_timeout=1: the input" in error
    assert not (workdir / "evaluate").exists()


def workers_of(process: subprocess.Popen) -> list[int]:
    """Returns the ids of the processes that make the batches of a process."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            command = (status.parent / "cmdline").read_bytes()
            if f"PPid:\t{process.pid}\n" in status.read_text() and b"spawn_main" in command:
                found.append(int(status.parent.name))
    return found


# Process 1 hangs in a system call instead of making its fourth batch.
STUCK = """
import os, runpy, sys
from nl_jax.data.loader import TrainBatches
pipe = sys.argv.pop(1)
before = TrainBatches.__next__
def hang(self):
    if self.get_state()["next_batch"] == 3 and "--process_id=1" in sys.argv:
        os.close(os.open(pipe, os.O_RDONLY))  # nobody writes
    return before(self)
TrainBatches.__next__ = hang
runpy.run_module("experiments.train", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("asked", [False, True], ids=["not asked to stop", "asked to stop"])
def test_a_process_whose_input_is_stuck_is_named_by_the_other_and_both_end(asked, tmp_path):
    """Both processes are alive and answer each other, so only the watchdog can end them."""
    os.mkfifo(tmp_path / "pipe")
    limits = ("--config.input_warning=3", f"--config.input_timeout={0 if asked else 20}")
    arguments = (tmp_path / "pipe", *SMALL, *limits, f"--workdir={tmp_path / 'run'}")
    processes = start_two("train", *arguments, code=STUCK)
    try:
        wait_for_rows(3, tmp_path / "run", processes[0])
        if asked:
            processes[1].send_signal(signal.SIGTERM)
        output = [process.communicate(timeout=2 * MINUTE) for process in processes]
    finally:
        for process in processes:
            process.kill()
    errors = [error for _, error in output]
    late = "process 1 of 2 has not come, it is at batch 3"
    if asked:
        waited = rf"asked to stop while it waited for .* of all processes, for \d+ s: {late}"
        assert re.search(waited, errors[0]), errors
        assert "asked to stop while it waited for batch 3, for" in errors[1], errors
        assert processes[0].returncode == 75 and processes[1].returncode
        return
    assert re.search(rf"process 0 of 2: waiting for .* of all processes for \d+ s: {late}\n", errors[0]), errors
    assert re.search(rf"error: waited \d+ s for .*, and input_timeout=20: {late}\. The same", errors[0]), errors
    assert re.search(r"process 1 of 2: waiting for batch 3 for \d+ s\n", errors[1]), errors
    assert processes[0].returncode == 1 and processes[1].returncode


def test_sigterm_saves_where_an_input_worker_is_stuck(tmp_path):
    endless = ("--config.steps=100000", "--config.num_workers=1", "--config.checkpoint_every=100000")
    process = start("train", *SMALL, *endless, f"--workdir={tmp_path}", devices=1)
    workers = []
    try:
        wait_for_rows(2, tmp_path, process)
        workers = workers_of(process)
        assert workers
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        time.sleep(2)  # the batches that were made before are used up
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=MINUTE)
    finally:
        for pid in (process.pid, *workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        output, error = process.communicate()  # the worker also had these pipes
    assert code == 75, error
    (saved,) = (tmp_path / "checkpoints").iterdir()
    assert f"asked to stop: saved at step {saved.name};" in output and len(losses(tmp_path)) == int(saved.name)
