"""Compares whole networks with a plain PyTorch I3D: forward, training step, and testing on larger crops."""

import argparse
import math
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs.common import base
from experiments.benchmark.measure import Measurement, Program, compare, compiled_bytes
from experiments.benchmark.op import naive_gaussian
from nl_jax.models import ResNetConfig, VideoResNet, flat
from nl_jax.models.summary import summarize
from nl_jax.ops import nonlocal_op
from nl_jax.tasks.classification import Classification
from nl_jax.training import sharding
from nl_jax.training.abstract import abstract_batch, abstract_state, trace_train_step
from nl_jax.training.optimizer import make_schedule
from nl_jax.training.preprocessing import make_normalize
from nl_jax.training.step import create_state, make_forward, make_train_step

NONLOCAL_BLOCKS = {50: {"res3": (1, 3), "res4": (1, 3, 5)}, 101: {"res3": (1, 3), "res4": (6, 13, 20)}}
TASK = Classification(base())  # only its loss and its forward pass are used
FORWARD = TASK.scores(multi_label=False)
CASES = {"network": "forward", "train_step": "training step", "evaluate": "forward of three test crops"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--frames",
        type=int,
        nargs="+",
        default=[8],
        help="frames of a clip; one row for each value; by default %(default)s",
    )
    parser.add_argument(
        "--side", type=int, help="side of a square frame in pixels; by default 224, or 256 for evaluate"
    )
    parser.add_argument(
        "--depth", type=int, default=50, choices=(50, 101), help="depth of ResNet; by default %(default)s"
    )
    parser.add_argument("--width", type=int, default=64, help="channels after conv1; by default %(default)s")
    parser.add_argument(
        "--batch", type=int, help="clips in a batch, per chip with --aot; by default 2, or 3 for evaluate"
    )
    parser.add_argument(
        "--geometry",
        default="slowfast",
        help="config.model.geometry; only slowfast, the default, can be compared with PyTorch",
    )
    parser.add_argument("--norm", default="batch", help="config.model.norm; by default %(default)s")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="type of the computation; by default %(default)s",
    )
    parser.add_argument(
        "--remat", nargs="*", default=[], help="config.model.remat: stages that the backward pass computes again"
    )


def run(arguments: argparse.Namespace) -> list[Measurement]:
    return [measurement for frames in arguments.frames for measurement in _measure(frames, arguments)]


def programs(arguments: argparse.Namespace):
    """Returns the programs of `--aot`: {case: (ours, naive)}, functions of a mesh that lower a program.

    The naive program computes the n x m matrix.
    """
    from nl_jax.ops.attention import attention

    def lower(frames, gaussian):
        def on(mesh):
            with mock.patch.object(nonlocal_op, "gaussian", gaussian):
                return _lower(frames, arguments, mesh)

        return on

    chunked = partial(attention, form="chunked")  # the form on a TPU when several chips share the batch

    return {
        f"{CASES[arguments.subject]}, {frames} frames": (lower(frames, chunked), lower(frames, naive_gaussian))
        for frames in arguments.frames
    }


def _sizes(arguments):
    test = arguments.subject == "evaluate"
    return arguments.side or (256 if test else 224), arguments.batch or (3 if test else 2)


def _config(arguments) -> ResNetConfig:
    return ResNetConfig(
        depth=arguments.depth,
        width=arguments.width,
        inflate="3x1x1",
        geometry=arguments.geometry,
        nonlocal_blocks=NONLOCAL_BLOCKS[arguments.depth],
        norm=arguments.norm,
        dtype=arguments.dtype,
        remat=tuple(arguments.remat),
    )


def _training():
    """Returns the schedule and the optimizer of the paper's recipe, with a constant learning rate."""
    config = base()
    config.optimizer.schedule = "constant"
    schedule = make_schedule(config.optimizer, config.steps)
    return schedule, TASK.optimizer(schedule)


def _lower(frames, arguments, mesh):
    side, batch = _sizes(arguments)
    config, (schedule, optimizer) = _config(arguments), _training()
    example = {
        "video": jax.ShapeDtypeStruct((frames, side, side, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((), jnp.int32),
    }
    inputs = abstract_batch(example, batch * mesh.size, mesh)
    build = partial(_build, config)
    if arguments.subject == "train_step":
        return trace_train_step(build, TASK.loss, optimizer, schedule, mesh, inputs).lower()
    graphdef, state = abstract_state(build, optimizer, mesh)
    return make_forward(graphdef, FORWARD, mesh).lower(state.params, state.batch_stats, {"video": inputs["video"]})


def _build(config, rngs):
    return VideoResNet(config, rngs=rngs)


def _measure(frames, arguments):
    side, batch = _sizes(arguments)
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (batch, frames, side, side, 3), dtype=np.uint8)
    label = rng.integers(0, 400, batch)
    config = _config(arguments)
    operations = 2 * batch * summarize(config, video.shape[1:4]).macs * (3 if arguments.subject == "train_step" else 1)
    title = f"I3D-NL R{arguments.depth} {frames}x{side}x{side}, batch {batch}: {CASES[arguments.subject]}"
    return compare(
        title,
        math.prod(video.shape[1:4]),
        {
            "ours": _ours(config, video, label, arguments.subject, operations),
            "torch": Program(_theirs(arguments, video, label), operations),
        },
        arguments.repeats,
    )


def _ours(config, video, label, subject, operations) -> Program:
    mesh = sharding.make_mesh(data=1, fsdp=1, devices=jax.devices()[:1])
    schedule, optimizer = _training()
    build = partial(_build, config)
    graphdef, _, _ = flat.abstract(lambda: build(nnx.Rngs(0)))
    current = create_state(build, optimizer, mesh, seed=0)
    batch = sharding.put_batch({"video": video, "label": label.astype(np.int32)}, mesh)
    if subject != "train_step":
        forward = make_forward(graphdef, FORWARD, mesh)
        args = (current.params, current.batch_stats, {"video": batch["video"]})
        return Program(lambda: forward(*args).block_until_ready(), operations, compiled_bytes(forward, *args))
    train_step = make_train_step(graphdef, TASK.loss, optimizer, schedule, mesh, current)

    def step():
        nonlocal current
        current, metrics = train_step(current, batch, jax.random.key(0))
        jax.block_until_ready((current, metrics))

    # The new state reuses the memory of the old state.
    memory = train_step.lower(current, batch, jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes
    return Program(step, operations, memory)


def _theirs(arguments, video, label):
    import torch

    from experiments.benchmark.torch_network import I3D

    model = I3D(arguments.depth, arguments.width, nonlocal_blocks=NONLOCAL_BLOCKS[arguments.depth])
    video = torch.tensor(np.array(make_normalize(base().input)(jnp.asarray(video))).transpose(0, 4, 1, 2, 3).copy())
    label = torch.tensor(label)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)

    def forward():
        with torch.no_grad():
            model(video).softmax(1)

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(video), label).backward()
        optimizer.step()

    model.train(arguments.subject == "train_step")
    return step if arguments.subject == "train_step" else forward
