"""Max pooling over any axes, one axis at a time."""

from functools import reduce

import jax.numpy as jnp
from jaxtyping import Array, Float


def max_pool(
    x: Float[Array, "b *s c"], kernel: tuple[int, ...], strides: tuple[int, ...], padding: tuple[int, ...]
) -> Float[Array, "b *s2 c"]:
    """The maximum over windows of the axes between batch and channels, padded with -inf on both sides.

    A maximum over a box is one over each axis in turn, and over an axis it is the maximum of shifted slices, whose
    gradient is far cheaper on CPU than that of a window reduction. Where several values are the largest, they share
    the gradient. Incomplete windows at the end are left out.
    """
    if not x.ndim - 2 == len(kernel) == len(strides) == len(padding):
        raise ValueError(f"an input of shape {x.shape} does not fit kernel {kernel}, strides {strides}, {padding}")
    for axis, (k, s, p) in enumerate(zip(kernel, strides, padding, strict=True), start=1):
        x = _max_pool_axis(x, axis, k, s, p)
    return x


def _max_pool_axis(x, axis, kernel, stride, padding):
    if (kernel, stride, padding) == (1, 1, 0):
        return x
    if padding:
        x = jnp.pad(x, [(padding,) * 2 if a == axis else (0, 0) for a in range(x.ndim)], constant_values=-jnp.inf)
    size = (x.shape[axis] - kernel) // stride + 1
    if size < 1:
        raise ValueError(f"axis {axis} of shape {x.shape} is shorter than the pooling kernel {kernel}")
    before = (slice(None),) * axis
    last = (size - 1) * stride + 1
    return reduce(jnp.maximum, [x[(*before, slice(k, k + last, stride))] for k in range(kernel)])
