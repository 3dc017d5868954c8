"""Max pooling over any axes, one axis at a time."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nl_jax.ops.devices import platform
from nl_jax.ops.fusion import materialize


def max_pool(
    x: Float[Array, "b *s c"], kernel: tuple[int, ...], strides: tuple[int, ...], padding: tuple[int, ...]
) -> Float[Array, "b *s2 c"]:
    """Computes the maximum over windows of the axes between batch and channels.

    The maximum over a box is a maximum over each axis in turn. Over one axis it is the maximum of shifted slices. The
    gradient of these slices is far cheaper on a CPU than the gradient of a window reduction. If several values of a
    window are the largest, they share its gradient. Incomplete windows at the end are left out.

    Args:
      x: arrays with any axes between batch and channels.
      kernel: length of a window along each of these axes.
      strides: step of the windows along each of these axes.
      padding: number of -inf values on both sides of each of these axes.

    Raises:
      ValueError: the number of axes does not fit, or an axis is shorter than its kernel.
    """
    if not x.ndim - 2 == len(kernel) == len(strides) == len(padding):
        raise ValueError(f"an input of shape {x.shape} does not fit kernel {kernel}, strides {strides}, {padding}")
    for axis, (k, s, p) in enumerate(zip(kernel, strides, padding, strict=True), start=1):
        if (k, s, p) != (1, 1, 0):
            x = (_max_pool_axis_on_gpus if platform() == "gpu" else _max_pool_axis)(x, axis, k, s, p)
    return x


def _max_pool_axis(x, axis, kernel, stride, padding):
    return reduce(jnp.maximum, _taps(x, axis, kernel, stride, padding))


def _taps(x, axis, kernel, stride, padding):
    """Returns the first, second, .. values of all windows, one array for each place in the kernel."""
    if padding:
        x = jnp.pad(x, [(padding,) * 2 if a == axis else (0, 0) for a in range(x.ndim)], constant_values=-jnp.inf)
    size = (x.shape[axis] - kernel) // stride + 1
    if size < 1:
        raise ValueError(f"axis {axis} of shape {x.shape} is shorter than the pooling kernel {kernel}")
    before = (slice(None),) * axis
    last = (size - 1) * stride + 1
    return [x[(*before, slice(k, k + last, stride))] for k in range(kernel)]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_pool_axis_on_gpus(x, axis, kernel, stride, padding):
    """Computes `_max_pool_axis` with the same gradient. The gradient that JAX derives would sum one array per tap."""
    return _max_pool_axis(x, axis, kernel, stride, padding)


def _forward(x, axis, kernel, stride, padding):
    x = materialize(x)
    return _max_pool_axis(x, axis, kernel, stride, padding), x


def _backward(axis, kernel, stride, padding, x, dy):
    x = materialize(x)  # without this XLA would keep every tap of the forward pass
    taps = _taps(x, axis, kernel, stride, padding)
    largest = [taps[0]]  # the maximum of the taps so far
    for tap in taps[1:]:
        largest.append(jnp.maximum(largest[-1], tap))
    shares = []
    for tap, before in zip(taps[:0:-1], largest[-2::-1], strict=True):
        share = jnp.where(tap > before, dy, jnp.where(tap == before, dy / 2, 0))
        shares.insert(0, share)
        dy = dy - share
    shares.insert(0, dy)
    # A position s i + r is tap k of window i - (k - padding - r) / s, where this is a whole number.
    length = -(-x.shape[axis] // stride)
    sums = []
    for r in range(stride):
        met = [(k - padding - r) // stride for k in range(kernel) if (k - padding - r) % stride == 0]
        of = [share for k, share in enumerate(shares) if (k - padding - r) % stride == 0]
        moved = [_move(share, axis, by, length) for share, by in zip(of, met, strict=True)]
        sums.append(sum(moved) if moved else jnp.zeros_like(_move(dy, axis, 0, length)))
    dx = jnp.stack(sums, axis=axis + 1)
    dx = dx.reshape(*dx.shape[:axis], length * stride, *dx.shape[axis + 2 :])
    return (jax.lax.slice_in_dim(dx, 0, x.shape[axis], axis=axis),)


_max_pool_axis_on_gpus.defvjp(_forward, _backward)


def _move(x, axis, by, length):
    """Returns x[i - by] for i < length, and zero where x has no value at i - by."""
    edges = [(by, length - x.shape[axis] - by, 0) if a == axis else (0, 0, 0) for a in range(x.ndim)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), edges)
