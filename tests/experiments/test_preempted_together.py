"""Two processes of four simulated devices each are one run. If asked to stop, both save after the same step."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROCESS = """
import runpy, sys
import jax
address, number = sys.argv[1:3]
sys.argv[:3] = ["train"]
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, 2, int(number))
runpy.run_module("experiments.train", run_name="__main__", alter_sys=True)
"""
SMALL = [
    *("--config=configs/quickstart.py:c2d", "--config.start.stage=", "--config.steps=10000", "--config.batch_size=16"),
    *("--config.eval_batch_size=8", "--config.eval_every=0", "--config.log_every=1", "--config.checkpoint_every=5000"),
    *("--config.model.width=4", "--config.model.blocks_per_stage=(1,)"),
]


@pytest.mark.parametrize(
    "changes, rows, message",
    [
        ((), 3, r"saved at step (\d+);"),
        # A validation that is too long to finish.
        (
            ("eval_every=3", "recipe_batch_size=16", "data.validation_size=100000"),
            2,
            r"saved at step (3), before its validation;",
        ),
    ],
    ids=["training", "validating"],
)
def test_sigterm_of_one_process_saves_in_both_after_the_same_step(tmp_path, changes, rows, message):
    arguments = [*SMALL, *(f"--config.{change}" for change in changes), f"--workdir={tmp_path / 'run'}"]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, address, str(number), *arguments],
            **{"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True},
        )
        for number in range(2)
    ]
    try:
        csv = tmp_path / "run" / "metrics.csv"
        while not (csv.exists() and len(csv.read_text().splitlines()) > rows):
            assert all(process.poll() is None for process in processes), [p.communicate()[1] for p in processes]
            time.sleep(0.05)
        time.sleep(1 if changes else 0)  # the validation has begun or will begin soon
        processes[1].send_signal(signal.SIGTERM)
        printed = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [75, 75]
    steps = [re.search(message, text).group(1) for text in printed]
    saved = tmp_path / "run" / ("unvalidated" if changes else ".") / "checkpoints"
    assert steps[0] == steps[1] and [path.name for path in saved.iterdir()] == steps[:1]
