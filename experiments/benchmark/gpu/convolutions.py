"""Compares convolutions folded to two axes with convolutions over three axes and with PyTorch's, with gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch

from experiments.benchmark.gpu import theirs
from experiments.benchmark.gpu.record import Record, alternate
from nl_jax.ops.conv import conv3d

# (Clips, frames, side, input channels), output channels, kernel, strides and padding, as in I3D R50 with 32 frames.
CASES = {
    "3x3x3 in res2": ((8, 32, 56, 64), 64, (3, 3, 3), (1, 1, 1), (1, 1, 1)),
    "3x3x3 in res4": ((8, 16, 14, 256), 256, (3, 3, 3), (1, 1, 1), (1, 1, 1)),
    "3x1x1 in res2": ((8, 32, 56, 256), 64, (3, 1, 1), (1, 1, 1), (1, 0, 0)),
    "3x1x1 in res4": ((8, 16, 14, 1024), 256, (3, 1, 1), (1, 1, 1), (1, 0, 0)),
    "1x3x3 in res2": ((8, 32, 56, 64), 64, (1, 3, 3), (1, 1, 1), (0, 1, 1)),
    "1x3x3, stride 2 in res3": ((8, 16, 56, 128), 128, (1, 3, 3), (1, 2, 2), (0, 1, 1)),
    "1x1x1 in res4": ((8, 16, 14, 256), 1024, (1, 1, 1), (1, 1, 1), (0, 0, 0)),
    "stem 5x7x7": ((8, 32, 224, 3), 64, (5, 7, 7), (1, 2, 2), (2, 3, 3)),
}


def measure(record: Record, small: bool) -> None:
    """Times forward and backward in bfloat16: ours, `lax.conv_general_dilated` over three axes, PyTorch's conv3d."""
    theirs.prepare(small)
    rng = np.random.default_rng(0)
    for name, ((b, t, side, i), o, kernel, strides, padding) in CASES.items():
        if record.left() < 6:
            record.note(f"{name}: skipped, no time is left")
            continue
        if small:
            b, t, side, i, o = 1, 4, 8, min(i, 4), 4
        with record.attempt(name):
            x = rng.normal(size=(b, t, side, side, i)).astype(np.float32)
            w = (rng.normal(size=(*kernel, i, o)) / np.sqrt(i * np.prod(kernel))).astype(np.float32)
            functions = {
                "folded": partial(conv3d, strides=strides, padding=padding),
                "three axes": partial(_conv_over_three_axes, strides=strides, padding=padding),
            }
            programs = {}
            for form, function in functions.items():
                programs[form] = _ours(function, *(jnp.asarray(array, jnp.bfloat16) for array in (x, w)))
            programs["torch"] = _theirs(x, w, strides, padding)
            seconds = alternate(programs, rounds=5)
            text = ", ".join(f"{form} {1e3 * value:.3f} ms" for form, value in seconds.items())
            ratios = {form: value / seconds["folded"] for form, value in seconds.items()}
            record.add(f"{name}: {text}", what=name, seconds=seconds, ratios=ratios)
            theirs.free()


def _conv_over_three_axes(x, kernel, strides, padding):
    numbers = ("NDHWC", "DHWIO", "NDHWC")
    return jax.lax.conv_general_dilated(x, kernel, strides, [(p, p) for p in padding], dimension_numbers=numbers)


def _ours(function, x, kernel):
    def step(x, kernel):
        y, pull = jax.vjp(function, x, kernel)
        return y, *pull(y)

    step = jax.jit(step).lower(x, kernel).compile()

    def run(count: int) -> None:
        for _ in range(count):
            found = step(x, kernel)
        jax.block_until_ready(found)

    return run


def _theirs(x, kernel, strides, padding):
    options = {"device": theirs.DEVICE, "dtype": torch.bfloat16, "memory_format": torch.channels_last_3d}
    x = torch.tensor(x).movedim(-1, 1).to(**options).requires_grad_()
    kernel = torch.tensor(kernel).permute(4, 3, 0, 1, 2).to(**options).requires_grad_()

    def step():
        y = torch.nn.functional.conv3d(x, kernel, None, strides, padding)
        torch.autograd.grad(y, (x, kernel), y.detach())

    return theirs.looped(step)
