"""Measures the wall time and the processor time that the training loop adds to a step of 100 ms on the device."""

import argparse
import ctypes
import json
import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from configs import quickstart
from nl_jax.data.loader import TrainBatches
from nl_jax.errors import InputError
from nl_jax.runs import stages
from nl_jax.tasks import task_of
from nl_jax.training import run as training_run

STEP_SECONDS = 0.1
WARM_UP = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--steps",
        type=int,
        default=110,
        help=f"number of steps; the first {WARM_UP} are not counted; by default %(default)s",
    )
    parser.add_argument(
        "--depth",
        type=int,
        default=50,
        choices=(50, 101),
        help="depth of the network, which sets the number of arrays; by default %(default)s",
    )


def run(arguments: argparse.Namespace) -> None:
    """Trains with a step that takes the arrays of the paper's network, waits 100 ms and returns them.

    The wait replaces the work of an accelerator, which also leaves the cores of the host free. Then the same step runs
    without the loop. The time of the loop is the time of a step in the loop, minus its wait for a batch, minus the time
    of a step without the loop.
    """
    with tempfile.TemporaryDirectory() as workdir:
        _register_wait(Path(workdir))
        config = _config(arguments)
        step = _WaitingStep(task_of(config).train_figures)
        began, inputs = [], []
        next_batch = TrainBatches.__next__

        def timed(self):
            began.append(_now())
            batch = next_batch(self)
            inputs.append(_now() - began[-1])
            return batch

        with (
            mock.patch.object(TrainBatches, "__next__", timed),
            mock.patch.object(training_run, "make_train_step", step.made_by),
        ):
            stages.train(config, Path(workdir) / "run")
    count = arguments.steps - 1 - WARM_UP
    # A step lasts from its request for a batch to the request of the next step.
    in_loop = (began[arguments.steps - 1] - began[WARM_UP]) / count
    of_input = sum(inputs[WARM_UP : arguments.steps - 1]) / count
    (step_ms, thread_ms), (input_ms, _) = 1e3 * (in_loop - [0, of_input[1]]), 1e3 * of_input
    alone_ms, call_ms = 1e3 * step.alone(count), 1e3 * sum(step.calls[WARM_UP:-1]) / count
    loop_ms = step_ms - input_ms - alone_ms
    print(
        f"A step in the loop takes {step_ms:.2f} ms. For {input_ms:.2f} ms of this time it waits for its batch. "
        f"Without the loop a step takes {alone_ms:.2f} ms. So the loop adds {loop_ms:.2f} ms, "
        f"{loop_ms / 1e3 / STEP_SECONDS:.1%} of {1e3 * STEP_SECONDS:.0f} ms.\n"
        f"The thread of the loop computes for {thread_ms:.2f} ms a step, mostly while the previous step runs. It needs "
        f"{call_ms:.2f} ms of this time to call the compiled step with {step.arrays} arrays."
    )
    names = ("loop_ms", "step_ms", "input_ms", "alone_ms", "thread_ms", "call_ms", "arrays", "depth")
    values = (loop_ms, step_ms, input_ms, alone_ms, thread_ms, call_ms, step.arrays, arguments.depth)
    content = dict(zip(names, map(float, values), strict=True))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "loop.json").write_text(json.dumps(content, indent=1) + "\n")


def _config(arguments: argparse.Namespace):
    """Returns a config with few channels and short clips. Only the number of arrays is as in the paper's network."""
    config = quickstart.get_config("nl_c2d").unlock()
    config.update_from_flattened_dict(
        {
            "start.stage": "",
            "steps": arguments.steps,
            "batch_size": 8 * jax.device_count(),
            "recipe_batch_size": 0,
            "eval_every": 0,
            "eval_batch_size": 8,
            "checkpoint_every": 10**6,
            "precise_bn_batches": 1,
            "model.blocks_per_stage": (),
            "model.depth": arguments.depth,
            "model.width": 8,
            "model.nonlocal_blocks.res3": (),
            "model.nonlocal_preset": 5,
            "model.inflate": "3x1x1",
            "data.frames": 8,
            "data.validation_size": 8,
            "data.test_size": 8,
            "optimizer.warmup_steps": 1,
            "optimizer.name": "sgd",  # as in the paper's recipe
            "optimizer.learning_rate": 0.01,
        }
    )
    return config


class _WaitingStep:
    """Replaces the result of make_train_step: a step that waits. It returns the metrics of a task and of every step."""

    def __init__(self, metrics):
        self._metrics = ("loss", *metrics, "learning_rate", "grad_norm")

    def made_by(self, graphdef, loss, optimizer, schedule, mesh, train_state, *_, **__):
        self._state = jax.tree.map(jnp.copy, train_state)  # the loop donates its own state
        self.arrays = len(jax.tree.leaves(train_state))
        self._step = jax.jit(partial(_step, metrics=self._metrics), donate_argnums=0)
        self.calls = []
        return self

    def __call__(self, state, batch, key):
        self._rest = batch, key
        began = time.thread_time()
        result = self._step(state, batch, key)
        self.calls.append(time.thread_time() - began)
        return result

    def alone(self, count: int) -> float:
        """Returns the seconds of a step without the loop. As in the loop, one step runs while the next is called."""
        state, before = self._state, None
        for at in range(count + WARM_UP):
            if at == WARM_UP:
                began = time.perf_counter()
            state, metrics = self._step(state, *self._rest)
            jax.block_until_ready(before)
            before = metrics
        return (time.perf_counter() - began) / count


def _step(state, batch, key, metrics):
    wait = jax.ffi.ffi_call("nl_jax_wait", jax.ShapeDtypeStruct((), jnp.float32))
    # The wait is after the inputs of the step and before its results, as on a device.
    one = wait(1 + 0 * jax.tree.leaves(batch)[0].min().astype(jnp.float32), seconds=np.float32(STEP_SECONDS))
    arrays = jax.tree.map(lambda x: x * one.astype(x.dtype), state)
    return arrays.replace(step=state.step + 1), dict.fromkeys(metrics, one)


def _now() -> np.ndarray:
    """Returns the wall time and the processor time of this thread, in seconds."""
    return np.array([time.perf_counter(), time.thread_time()])


def _register_wait(folder: Path) -> None:
    """Registers a wait in C++. With a wait in Python, JAX would not use its fast path to call a compiled program."""
    compiler = shutil.which("c++")
    if not compiler:
        raise InputError("found no C++ compiler (c++), which this benchmark needs")
    source, library = Path(__file__).with_name("wait.cc"), folder / "wait.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-w", f"-I{jax.ffi.include_dir()}"]
    subprocess.run([compiler, *flags, "-o", library, source], check=True)
    wait = ctypes.CDLL(str(library)).nl_jax_wait
    jax.ffi.register_ffi_target("nl_jax_wait", jax.ffi.pycapsule(wait), platform="cpu")
