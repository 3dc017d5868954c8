"""Compares the non-local block in training with the block of mmcv: forward, and forward with backward."""

import argparse
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.benchmark.measure import Measurement, Program, compare, compiled_bytes
from experiments.benchmark.op import naive_gaussian
from nl_jax.models import NonLocalBlock
from nl_jax.ops import nonlocal_op

DIRECTIONS = ("forward", "forward+backward")
# mmcv's concatenation divides the output of a ReLU in place, so PyTorch refuses to compute the gradient.
CASES = {"embedded_gaussian": DIRECTIONS, "dot_product": DIRECTIONS, "concatenation": ("forward",)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--frames",
        type=int,
        nargs="+",
        default=[1, 2, 4, 8],
        help="frames of a clip; one row for each value; by default %(default)s",
    )
    parser.add_argument(
        "--side", type=int, default=28, help="side of a square frame, in positions; by default %(default)s"
    )
    parser.add_argument("--channels", type=int, default=512, help="channels of the block; by default %(default)s")
    parser.add_argument("--batch", type=int, default=1, help="clips in a batch; by default %(default)s")


def run(arguments: argparse.Namespace) -> list[Measurement]:
    return [
        measurement
        for pairwise, directions in CASES.items()
        for frames in arguments.frames
        for direction in directions
        for measurement in _measure(pairwise, direction, frames, arguments)
    ]


def programs(arguments: argparse.Namespace):
    """Returns the programs of `--aot`: {case: (ours, naive, shapes of the arrays)}."""
    result = {}
    for frames in arguments.frames:
        shape = _shape(frames, arguments)
        operations = (nonlocal_op.gaussian, naive_gaussian)
        pair = [_step("embedded_gaussian", DIRECTIONS[1], shape, operation)[0] for operation in operations]
        result[f"embedded_gaussian, positions={math.prod(shape[1:4])}"] = (*pair, [shape])
    return result


def _shape(frames, arguments):
    return (arguments.batch, frames, arguments.side, arguments.side, arguments.channels)


def _step(pairwise, direction, shape, gaussian=nonlocal_op.gaussian):
    """Returns a function of x, and the operations of our form and of the form with the n x m matrix.

    The function returns the output, or the gradients of the parameters and of x.
    """
    channels = shape[-1]
    block = NonLocalBlock(channels, pairwise=pairwise, subsample="after", scale="rsqrt_d", rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(block, nnx.Param, ...)

    def forward(params, x):
        merged = nnx.merge(graph, params, rest, copy=True)
        merged.train()
        with mock.patch.object(nonlocal_op, "gaussian", gaussian):
            return merged(x)

    def step(x):
        if direction == "forward":
            return forward(params, x)
        y, pull = jax.vjp(forward, params, x)
        return pull(y)

    n = math.prod(shape[1:4])
    m = math.prod(block.key_shape(shape))
    d = channels // 2
    embeddings = 4 * n * channels * d
    pairs = {"dot_product": (n + m) * d * d, "concatenation": 2 * (n + m) * d}.get(pairwise, 2 * n * m * d)
    naive = 2 * n * m * d if pairwise != "concatenation" else n * m * d
    times = 2 * shape[0] * (1 if direction == "forward" else 3)
    return jax.jit(step), times * (embeddings + pairs), times * (embeddings + naive)


def _measure(pairwise, direction, frames, arguments):
    import torch
    from mmcv.cnn import NonLocal3d

    shape = _shape(frames, arguments)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    step, operations, naive_operations = _step(pairwise, direction, shape)
    ours = jnp.asarray(x)
    peer = NonLocal3d(shape[-1], sub_sample=True, mode=pairwise, norm_cfg={"type": "BN3d"})
    theirs = torch.tensor(x.transpose(0, 4, 1, 2, 3).copy())

    def peer_step():
        if direction == "forward":
            with torch.no_grad():
                return peer(theirs)
        peer.zero_grad()
        leaf = theirs.detach().requires_grad_()
        y = peer(leaf)
        y.backward(y.detach())

    programs = {
        "ours": Program(lambda: jax.block_until_ready(step(ours)), operations, compiled_bytes(step, ours)),
        "mmcv": Program(peer_step, naive_operations),
    }
    return compare(f"{pairwise} block {direction}", math.prod(shape[1:4]), programs, arguments.repeats)
