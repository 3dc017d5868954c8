"""Compares the non-local operation alone with PyTorch on the same arrays: forward, and forward with backward."""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.measure import Measurement, Program, compare, compiled_bytes
from nl_jax.ops import nonlocal_op


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--positions",
        type=int,
        nargs="+",
        default=[784, 3136, 6272, 12544],
        help="n, the number of positions; one row for each value; by default %(default)s",
    )
    parser.add_argument(
        "--keys",
        choices=("quarter", "all"),
        default="quarter",
        help="number m of keys: n / 4 or n; by default %(default)s",
    )
    parser.add_argument("--channels", type=int, default=256, help="number of channels, d = c; by default %(default)s")
    parser.add_argument("--batch", type=int, default=1, help="clips in a batch; by default %(default)s")


def run(arguments: argparse.Namespace) -> list[Measurement]:
    return [
        measurement
        for function in FUNCTIONS
        for n in arguments.positions
        for measurement in _measure(function, n, arguments)
    ]


def programs(arguments: argparse.Namespace):
    """Returns the programs of `--aot`: {case: (ours, naive, shapes of the arrays)}."""
    result = {}
    for function in FUNCTIONS:
        for n in arguments.positions:
            of_arrays = _shapes(function, n, arguments)
            for direction in DIRECTIONS:
                pair = [jax_program(f, direction) for f in (getattr(nonlocal_op, function), NAIVE[function])]
                result[f"{function} {direction}, n={n}"] = (*pair, of_arrays)
    return result


def naive_gaussian(theta, phi, g, scale=1.0, form=None):
    """Computes the formula through the n x m matrix. `form` is not used; with it the function can replace ours."""
    return nonlocal_op.gaussian_rows(theta, phi, scale).astype(g.dtype) @ g


NAIVE = {
    "gaussian": naive_gaussian,
    "dot_product": lambda theta, phi, g: nonlocal_op.dot_product_rows(theta, phi).astype(g.dtype) @ g,
    "concatenation": lambda a, p, g: nonlocal_op.concatenation_rows(a, p).astype(g.dtype) @ g,
}
FUNCTIONS = tuple(NAIVE)
DIRECTIONS = ("forward", "forward+backward")


def shapes(function, b, n, m, d):
    """Returns the shapes of queries, keys and values."""
    return [(b, n), (b, m), (b, m, d)] if function == "concatenation" else [(b, n, d), (b, m, d), (b, m, d)]


def _shapes(function, n, arguments):
    return shapes(function, arguments.batch, n, n if arguments.keys == "all" else n // 4, arguments.channels)


def _operations(function, shapes, ours: bool, backward: bool) -> float:
    """Returns the floating point operations of the matrix products that a program needs."""
    (b, n, *_), (_, m, *_), (_, _, c) = shapes
    if function == "concatenation":  # prefix sums: a few additions an element
        return 2 * b * (2 * (n + m) * c if ours else n * m * c) * (3 if backward else 1)
    d = shapes[0][2]
    forward = 2 * b * (min((n + m) * d * c, n * m * (d + c)) if ours and function == "dot_product" else n * m * (d + c))
    # The backward pass has two products for each forward product. The fused softmax also computes its scores again, as
    # it does in PyTorch.
    recomputed = 2 * b * n * m * d if function == "gaussian" else 0
    return 3 * forward + recomputed if backward else forward


def jax_program(f, direction):
    """Returns the jitted function; with backward, a jitted function that returns the gradients."""
    if direction == "forward":
        return jax.jit(f)

    def with_gradient(*args):
        y, pull = jax.vjp(f, *args)
        return pull(y)

    return jax.jit(with_gradient)


def _run(step, arrays):
    jax.block_until_ready(step(*arrays))


def torch_program(function, tensors, direction, wrap=lambda peer: peer):
    """Returns the same operation in PyTorch.

    The Gaussian uses scaled_dot_product_attention. The others compute the formula with einsum. `wrap` may be
    torch.compile.
    """
    import torch
    import torch.nn.functional as F

    peers = {
        "gaussian": lambda q, k, v: F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=1.0),
        "dot_product": lambda q, k, v: torch.einsum("bnm,bmc->bnc", torch.einsum("bnd,bmd->bnm", q, k) / k.shape[1], v),
        "concatenation": lambda a, p, v: torch.einsum(
            "bnm,bmc->bnc", torch.relu(a[:, :, None] + p[:, None]) / p.shape[1], v
        ),
    }

    peer = wrap(peers[function])

    def forward():
        with torch.no_grad():
            return peer(*tensors)

    def with_gradient():
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        y = peer(*leaves)
        y.backward(y.detach())

    return forward if direction == "forward" else with_gradient


def _measure(function, n, arguments):
    import torch

    rng = np.random.default_rng(0)
    of_arrays = _shapes(function, n, arguments)
    # The numbers are small. With large numbers the softmax would select only one key, which is an easy case.
    arrays = [(0.25 * rng.normal(size=shape)).astype(np.float32) for shape in of_arrays]
    tensors = [torch.tensor(array) for array in arrays]
    peer = "torch sdpa" if function == "gaussian" else "torch einsum"
    for direction in DIRECTIONS:
        step = jax_program(getattr(nonlocal_op, function), direction)
        ours = jax.tree.map(jnp.asarray, arrays)
        operations = [_operations(function, of_arrays, who, direction != "forward") for who in (True, False)]
        yield from compare(
            f"{function} {direction}",
            n,
            {
                "ours": Program(partial(_run, step, ours), operations[0], compiled_bytes(step, *ours)),
                peer: Program(torch_program(function, tensors, direction), operations[1]),
            },
            arguments.repeats,
        )
