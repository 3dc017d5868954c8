"""Checks values and gradients of every form of every operation against float64 in NumPy.

Convolutions are checked against PyTorch's on the CPU.
"""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.gpu.record import Record
from nl_jax.ops import devices, nonlocal_op
from nl_jax.ops.attention import attention
from nl_jax.ops.conv import conv3d
from nl_jax.ops.hinge import hinge
from nl_jax.ops.relu import relu

# Maximum relative error of a whole array, by the type and the precision of its products. TF32 rounds the factors of a
# product to 10 bits, and bfloat16 to 7 bits. In a softmax these errors are in the exponent.
TOLERANCE = {("float32", "highest"): 2e-5, ("float32", None): 4e-3, ("bfloat16", None): 3e-2, ("float16", None): 4e-3}


class Case(NamedTuple):
    """One form: a `function` of arrays, and its `reference(*arrays, dy)` -> (y, *gradients) in float64."""

    name: str
    function: Callable
    reference: Callable
    arrays: list[np.ndarray]
    dtype: str = "float32"
    precision: str | None = "highest"


def check(record: Record, small: bool, only: str = "") -> None:
    """Compiles every form and records its relative errors. `only` is a pattern of the names of forms."""
    cases = [case for case in _operations(small) + _convolutions(small) if re.search(only, case.name)]
    rng = np.random.default_rng(1)
    programs = []
    for case in cases:
        arrays = [jnp.asarray(x, case.dtype) for x in case.arrays]
        dy = jnp.asarray(rng.normal(size=jax.eval_shape(case.function, *arrays).shape), case.dtype)
        programs.append((case, arrays, dy))
    # Nothing is timed here, so several programs may compile at the same time.
    with ThreadPoolExecutor(2 if small else 4) as pool:
        compiled = [pool.submit(_compile, *program) for program in programs]
        for (case, arrays, dy), future in zip(programs, compiled, strict=True):
            what = f"{case.name}, {case.dtype}{', float32 products' if case.precision else ''}"
            with record.attempt(what):
                found = future.result()(dy, *arrays)
                # The reference gets the rounded inputs. So the errors come only from the arithmetic.
                expected = case.reference(*(np.asarray(x, np.float64) for x in arrays), np.asarray(dy, np.float64))
                names = ("y", *(f"gradient {i}" for i in range(len(arrays))))
                errors = {n: _error(f, e) for n, f, e in zip(names, found, expected, strict=True)}
                record.check(what, errors, TOLERANCE[case.dtype, case.precision])


def _compile(case, arrays, dy):
    def with_gradient(dy, *arrays):
        with jax.default_matmul_precision(case.precision):
            y, pull = jax.vjp(case.function, *arrays)
            return y, *pull(dy)

    return jax.jit(with_gradient).lower(dy, *arrays).compile()


def _error(found, expected):
    return float(np.linalg.norm(np.asarray(found, np.float64) - expected) / np.linalg.norm(expected))


def gaussian_reference(theta, phi, g, dy, scale=1.0, valid=None):
    """Returns y and the gradients of theta, phi and g, from the derivative of the softmax."""
    scores = scale * theta @ phi.swapaxes(1, 2)
    if valid is not None:
        scores = np.where(valid[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    dweights = dy @ g.swapaxes(1, 2)
    dscores = scale * weights * (dweights - (weights * dweights).sum(-1, keepdims=True))
    return weights @ g, dscores @ phi, dscores.swapaxes(1, 2) @ theta, weights.swapaxes(1, 2) @ dy


def dot_product_reference(theta, phi, g, dy):
    """Returns y and the gradients of theta, phi and g for the dot product."""
    rows = theta @ phi.swapaxes(1, 2) / phi.shape[1]
    drows = dy @ g.swapaxes(1, 2) / phi.shape[1]
    return rows @ g, drows @ phi, drows.swapaxes(1, 2) @ theta, rows.swapaxes(1, 2) @ dy


def concatenation_reference(a, p, g, dy, valid=None):
    """Returns y and the gradients of a, p and g for the concatenation; `valid` (b,m) masks keys."""
    counted = np.ones(p.shape, bool) if valid is None else valid
    count = counted.sum(1)[:, None, None]
    sums = a[:, :, None] + p[:, None]
    rows = np.maximum(sums, 0) * counted[:, None] / count
    drows = (sums > 0) * counted[:, None] * (dy @ g.swapaxes(1, 2)) / count
    return rows @ g, drows.sum(2), drows.sum(1), rows.swapaxes(1, 2) @ dy


def _operations(small: bool) -> list[Case]:
    rng = np.random.default_rng(0)
    b, n, m = (2, 48, 24) if small else (2, 2046, 521)

    def arrays(d, c, n=n, m=m):
        return [0.5 * rng.normal(size=shape) for shape in ((b, n, d), (b, m, d), (b, m, c))]

    def halves(c):
        return [rng.normal(size=shape) for shape in ((b, n), (b, m), (b, m, c))]

    valid = rng.random((b, m)) < 0.7
    cudnn = devices.knows_cudnn()
    cases = []

    def gaussian(form, d, c, dtype, precision, masked=False, sizes=(n, m)):
        scale = d**-0.5
        mask = valid if masked else None
        function = partial(_masked_attention, scale, form, mask)
        reference = partial(gaussian_reference, scale=scale, valid=mask)
        name = f"gaussian {form}, d {d}, c {c}{', masked' if masked else ''}, {sizes[0]} queries, {sizes[1]} keys"
        cases.append(Case(name, function, reference, arrays(d, c, *sizes), dtype, precision))

    kinds = (("float32", "highest"), ("float32", None), ("bfloat16", None))
    for dtype, precision in kinds:
        gaussian("chunked", 256, 256, dtype, precision)
    for d in (512, 1024):
        gaussian("chunked", d, d // 2, "bfloat16", None)
    gaussian("chunked", 256, 256, "float32", "highest", masked=True)
    if cudnn:
        for d, dtype, masked in ((256, "bfloat16", False), (128, "float16", False), (64, "bfloat16", True)):
            gaussian("cudnn", d, d, dtype, None, masked)
        gaussian("cudnn", 256, 256, "bfloat16", None, masked=True)
        gaussian("mixed", 256, 256, "bfloat16", None)
        for sizes in ((n, m - 1), (n + 1, m), (n + 1, m - 1)):  # JAX has other conditions for odd sizes
            gaussian("cudnn", 256, 256, "bfloat16", None, sizes=sizes)
    for dtype, precision in kinds:
        cases.append(
            Case("dot product", nonlocal_op.dot_product, dot_product_reference, arrays(256, 256), dtype, precision)
        )
        for form in ("sorted", "blockwise"):
            function = partial(hinge, form=form)
            name = f"concatenation {form}"
            cases.append(Case(name, function, concatenation_reference, halves(256), dtype, precision))
    for form in ("sorted", "blockwise"):
        function = partial(_masked_hinge, form, valid)
        reference = partial(concatenation_reference, valid=valid)
        cases.append(Case(f"concatenation {form}, masked", function, reference, halves(256)))
    return cases


def _masked_attention(scale, form, valid, *arrays):
    return attention(*arrays, scale, form, None if valid is None else jnp.asarray(valid))


def _masked_hinge(form, valid, *arrays):
    return hinge(*arrays, form, jnp.asarray(valid))


# Kernel, strides and padding of every convolution of the networks.
KERNELS = {
    "conv 1x1x1": ((1, 1, 1), (1, 1, 1), (0, 0, 0)),
    "conv 1x1x1, stride 2": ((1, 1, 1), (1, 2, 2), (0, 0, 0)),
    "conv 3x1x1": ((3, 1, 1), (1, 1, 1), (1, 0, 0)),
    "conv 1x3x3": ((1, 3, 3), (1, 1, 1), (0, 1, 1)),
    "conv 1x3x3, stride 2": ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    "conv 3x3x3": ((3, 3, 3), (1, 1, 1), (1, 1, 1)),
    "stem 5x7x7, stride 2": ((5, 7, 7), (2, 2, 2), (2, 3, 3)),
}


def _convolutions(small: bool) -> list[Case]:
    rng = np.random.default_rng(2)
    side = 8 if small else 28
    cases = []
    for name, (kernel, strides, padding) in KERNELS.items():
        i, o = (3, 16) if name.startswith("stem") else (32, 64)
        arrays = [
            rng.normal(size=(2, 4, side, side, i)),
            rng.normal(size=(*kernel, i, o)) / np.sqrt(i * np.prod(kernel)),
        ]
        function = partial(conv3d, strides=strides, padding=padding)
        reference = partial(convolution_reference, strides=strides, padding=padding)
        for dtype, precision in (("float32", "highest"), ("bfloat16", None)):
            cases.append(Case(name, function, reference, arrays, dtype, precision))
    relu_reference = lambda x, dy: (np.maximum(x, 0), np.where(x > 0, dy, 0))  # noqa: E731
    cases.append(Case("relu", relu, relu_reference, [rng.normal(size=(2, 4, 8, 8, 16))], "bfloat16", None))
    return cases


def convolution_reference(x, kernel, dy, strides, padding):
    """Returns y and the gradients of x and the kernel, from PyTorch's convolution on the CPU."""
    import torch

    x, kernel, dy = (torch.tensor(np.ascontiguousarray(a)) for a in (x, kernel, dy))
    x, kernel = (a.requires_grad_() for a in (x, kernel))
    y = torch.nn.functional.conv3d(x.movedim(-1, 1), kernel.permute(4, 3, 0, 1, 2), None, strides, padding)
    y = y.movedim(1, -1)
    y.backward(dy)
    return y.detach().numpy(), x.grad.numpy(), kernel.grad.numpy()
