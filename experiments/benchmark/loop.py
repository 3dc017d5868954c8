"""What the training loop itself costs: processor time of its thread, besides step and input, in a step of 100 ms."""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import jax

from configs import quickstart
from nl_jax.data.loader import TrainBatches
from nl_jax.training import loop
from nl_jax.training.preemption import Preemption

STEP_MS = 100.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=110, help="of which 10 are not counted")
    parser.add_argument("--depth", type=int, default=50, choices=(50, 101), help="as many arrays as the network has")


def run(arguments: argparse.Namespace) -> None:
    """Trains a narrow network of as many layers as the paper's, so that the step has as many arrays.

    The loop's thread hands over batches and steps, logs and asks for signals; the step runs on other threads, for which
    it waits without taking processor time. So the time counted is the host's, whatever else the machine does. Calling
    the compiled step is told apart: JAX takes the state's arrays in and out, while the step before is computed.
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
    asked, next_batch, make_train_step = Preemption.asked, TrainBatches.__next__, loop.make_train_step

    def mark(self, step):
        marks.append(time.thread_time())
        return asked(self, step)

    def timed_next(self):
        began = time.thread_time()
        batch = next_batch(self)
        inputs.append(time.thread_time() - began)
        return batch

    def make_timed_step(*args, **options):
        step = make_train_step(*args, **options)

        def timed_step(*state_and_batch):
            began = time.thread_time()
            result = step(*state_and_batch)
            calls.append(time.thread_time() - began)
            return result

        return timed_step

    with (
        tempfile.TemporaryDirectory() as workdir,
        mock.patch.object(Preemption, "asked", mark),
        mock.patch.object(TrainBatches, "__next__", timed_next),
        mock.patch.object(loop, "make_train_step", make_timed_step),
    ):
        loop.train(config, Path(workdir))
    first = 10  # compiling, and what is done once, is over
    of_input, of_calls = (1e3 * statistics.mean(times[first + 1 :]) for times in (inputs, calls))
    host = 1e3 * (marks[-1] - marks[first]) / (len(marks) - 1 - first) - of_input - of_calls
    print(
        f"the loop's thread takes {host:.2f} ms a step, {host / STEP_MS:.1%} of a step of {STEP_MS:.0f} ms; besides, "
        f"{of_calls:.2f} ms to call the compiled step and {of_input:.2f} ms to take a batch from the input"
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    content = {"host_ms": host, "call_ms": of_calls, "input_ms": of_input, "depth": arguments.depth}
    (arguments.out / "loop.json").write_text(json.dumps(content, indent=1) + "\n")
