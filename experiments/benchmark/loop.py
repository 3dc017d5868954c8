"""What the training loop itself costs next to a step of 100 ms on the device: time of its thread, and of the clock."""

import argparse
import json
import tempfile
import time
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from configs import quickstart
from nl_jax.data.loader import TrainBatches
from nl_jax.training import loop
from nl_jax.training.preemption import Preemption

STEP_SECONDS = 0.1
WARM_UP = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=110, help=f"of which {WARM_UP} are not counted")
    parser.add_argument("--depth", type=int, default=50, choices=(50, 101), help="as many arrays as the network has")


def run(arguments: argparse.Namespace) -> None:
    """Trains with a step that takes in and gives back the arrays of the paper's network, and waits 100 ms in between.

    The wait stands for an accelerator, which leaves the host's cores alone. Time of the loop's thread is what it
    computes itself: batches handed over, signals asked for, rows logged. Calling the compiled step, into which JAX
    takes the arrays of the state while the step before runs, is told apart.
    """
    config = quickstart.get_config("nl_c2d").unlock()
    config.update_from_flattened_dict(
        {
            **{"start.stage": "", "steps": arguments.steps, "batch_size": 8 * jax.device_count(), "eval_every": 0},
            **{"model.blocks_per_stage": (), "model.depth": arguments.depth, "model.width": 8},
            **{"model.nonlocal_blocks.res3": (), "model.nonlocal_preset": 5, "model.inflate": "3x1x1"},
            **{"data.frames": 8, "data.validation_size": 8, "data.test_size": 8, "eval_batch_size": 8},
            **{"checkpoint_every": 10**6, "precise_bn_batches": 1, "optimizer.warmup_steps": 1},
            **{"optimizer.name": "sgd", "optimizer.learning_rate": 0.01},  # as in the paper's recipe
        }
    )
    marks, inputs, calls = [], [], []
    asked, next_batch = Preemption.asked, TrainBatches.__next__

    def mark(self, step):
        marks.append((time.thread_time(), time.perf_counter()))
        return asked(self, step)

    def timed(function, times):
        def run(*args):
            began = time.thread_time()
            result = function(*args)
            times.append(time.thread_time() - began)
            return result

        return run

    with (
        tempfile.TemporaryDirectory() as workdir,
        mock.patch.object(Preemption, "asked", mark),
        mock.patch.object(TrainBatches, "__next__", timed(next_batch, inputs)),
        mock.patch.object(loop, "make_train_step", lambda *args, **options: timed(_waiting_step(), calls)),
    ):
        loop.train(config, Path(workdir))
    steps = len(marks) - 1 - WARM_UP
    thread, clock = (1e3 * (b - a) / steps for a, b in zip(marks[WARM_UP], marks[-1], strict=True))
    of_input, of_calls = (1e3 * sum(times[WARM_UP + 1 :]) / steps for times in (inputs, calls))
    host, wait = thread - of_input - of_calls, 1e3 * STEP_SECONDS
    print(
        f"the loop's thread computes for {host:.2f} ms a step, {host / wait:.1%} of {wait:.0f} ms; besides, "
        f"{of_calls:.2f} ms to call the compiled step and {of_input:.2f} ms to take a batch; {clock:.2f} ms in all"
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    content = {"host_ms": host, "call_ms": of_calls, "input_ms": of_input, "step_ms": clock, "depth": arguments.depth}
    (arguments.out / "loop.json").write_text(json.dumps(content, indent=1) + "\n")


def _waiting_step():
    """In place of what make_train_step returns."""

    def wait(_):
        time.sleep(STEP_SECONDS)
        return np.float32(1)

    def step(state, batch, key):
        one = jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.float32), state.step)
        arrays = jax.tree.map(lambda x: x * one.astype(x.dtype), state.replace(step=jnp.ones((), jnp.int32)))
        metrics = dict.fromkeys(("loss", "top1", "learning_rate", "grad_norm"), one + batch["label"].min())
        return arrays.replace(step=state.step + 1), metrics

    return jax.jit(step, donate_argnums=0)
