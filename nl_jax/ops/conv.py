"""Spacetime convolution as operations that XLA runs fast: matrix products and 2-D convolutions.

XLA:CPU computes a convolution over three axes several times slower than the same sums as 2-D convolutions. The networks
here need only 2-D convolutions. Their kernels are 1 x 1 x 1, 1 x k x k with time in the batch, and k x 1 x 1 with the
frame as one axis. The t x k x k kernels of the stem and of I3D 3x3x3 are stacks or sums of 1 x k x k taps.
`conv_gradient` has the gradients of kernels.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nl_jax.ops.conv_gradient import kernel_gradient
from nl_jax.ops.devices import merge_frames, platform, split_frames

# With at most this many channels (the stem) the temporal taps are stacked into one 2-D convolution. With more channels
# the stacked copies would cost more memory traffic than one convolution per tap.
MAX_STACKED_CHANNELS = 16
# The tensor cores of NVIDIA GPUs take 16-bit channels in multiples of this number without padding.
ALIGNED_CHANNELS = 8


def conv3d(
    x: Float[Array, "b t h w i"],
    kernel: Float[Array, "kt kh kw i2 o"],
    strides: tuple[int, int, int] = (1, 1, 1),
    padding: tuple[int, int, int] = (0, 0, 0),
    groups: int = 1,
) -> Float[Array, "b t2 h2 w2 o"]:
    """Computes the cross-correlation of x and a kernel over time, height and width.

    Args:
      x: clips.
      kernel: kt x kh x kw taps, from the i input channels of a group to o output channels.
      strides: steps in frames and pixels, in the order (t, h, w).
      padding: zeros on both sides of each axis, in the order (t, h, w). It is always explicit, because "SAME" pads a
        stride-2 kernel on one side only, and every published ResNet pads both sides.
      groups: number of groups of channels. The o / groups outputs of a group see only the i inputs of the same group.

    Raises:
      ValueError: the channels do not fit the kernel, or the clip has fewer frames than the kernel has taps.
    """
    kt, kh, kw, i, o = kernel.shape
    if x.shape[-1] != i * groups or o % groups:
        raise ValueError(
            f"the input has {x.shape[-1]} channels, the kernel {kernel.shape} takes {i}"
            + (f" in each of {groups} groups" if groups > 1 else "")
        )
    if x.shape[1] + 2 * padding[0] < kt:
        raise ValueError(f"{x.shape[1] + 2 * padding[0]} frames after padding are fewer than the kernel's {kt}")
    if groups > 1:
        return _grouped(x, kernel, strides, padding, groups)
    if kt == 1 or (kh, kw) == (1, 1) or i <= MAX_STACKED_CHANNELS:
        return _conv(x, kernel, strides, padding)
    taps = _taps(x, kt, strides[0], padding[0])
    return sum(_conv(tap, k[None], (1, *strides[1:]), (0, *padding[1:])) for tap, k in zip(taps, kernel, strict=True))


def conv1x1(x: Float[Array, "*s i"], kernel: Float[Array, "i o"]) -> Float[Array, "*s o"]:
    """Returns x @ kernel, a 1 x 1 convolution over any axes."""
    y = _conv(x.reshape(x.shape[0], -1, 1, 1, x.shape[-1]), kernel[None, None, None], (1, 1, 1), (0, 0, 0))
    return y.reshape(*x.shape[:-1], -1)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x, kernel, strides, padding):
    """Computes conv3d as one product or one 2-D convolution, for the kernels that allow it."""
    b, t, _, _, i = x.shape
    kt, kh, kw, _, o = kernel.shape
    if (kh, kw) == (1, 1) and padding[1:] == (0, 0):
        x = x[:, :, :: strides[1], :: strides[2]]
        if (kt, strides[0], padding[0]) == (1, 1, 0):
            return x @ kernel[0, 0, 0]
        y = _conv2d(x.reshape(b, t, -1, i), kernel[:, 0], (strides[0], 1), (padding[0], 0))
        return y.reshape(b, -1, *x.shape[2:4], o)
    if platform() == "gpu" and i % ALIGNED_CHANNELS and strides[1] == strides[2] > 1:
        return _conv_by_cells(x, kernel, strides, padding)
    taps = _taps(x, kt, strides[0], padding[0])
    x = taps[0] if kt == 1 else jnp.concatenate(taps, axis=-1)
    kernel = jnp.moveaxis(kernel, 0, 2).reshape(kh, kw, kt * i, o)
    y = _conv2d(merge_frames(x)[0], kernel, strides[1:], padding[1:])
    return split_frames(y[None], b, x.shape[1])


def _conv_forward(x, kernel, strides, padding):
    return _conv(x, kernel, strides, padding), (x, kernel)


def _conv_backward(strides, padding, residuals, dy):
    x, kernel = residuals
    plain = partial(_conv.fun, strides=strides, padding=padding)
    (dx,) = jax.vjp(lambda x: plain(x, kernel), x)[1](dy)
    return dx, kernel_gradient(plain, x, kernel, dy, strides, padding)


_conv.defvjp(_conv_forward, _conv_backward)


def _conv_by_cells(x, kernel, strides, padding):
    """Convolves cells of s x s pixels with s s i channels at stride 1. This runs a stem on tensor cores.

    Tensor cores take channels in multiples of 8. With 3 channels, or 15 channels from five frames, cuDNN copies the
    input into a padded array.
    """
    b, _, *size, i = x.shape
    kt, *window, _, o = kernel.shape
    s = strides[1]
    # A window starts `first` cells before its own cell. Its first `lead` pixels there lie outside the kernel.
    first = [-(-p // s) for p in padding[1:]]
    lead = [f * s - p for f, p in zip(first, padding[1:], strict=True)]
    cells = [-(-(k + a) // s) for k, a in zip(window, lead, strict=True)]
    last = [(n + 2 * p - k) // s + c - f - -(-n // s)
            for n, p, k, c, f in zip(size, padding[1:], window, cells, first, strict=True)]  # fmt: skip

    x = jnp.pad(x, ((0, 0), (0, 0), *((0, -n % s) for n in size), (0, 0)))
    x = x.reshape(*x.shape[:2], x.shape[2] // s, s, x.shape[3] // s, s, i).swapaxes(3, 4)
    x = x.reshape(*x.shape[:4], s * s * i)
    x = jnp.concatenate(_taps(x, kt, strides[0], padding[0]), axis=-1)
    kernel = jnp.pad(kernel, ((0, 0), *((a, c * s - k - a) for a, c, k in zip(lead, cells, window, strict=True)),
                              (0, 0), (0, 0)))  # fmt: skip
    kernel = kernel.reshape(kt, cells[0], s, cells[1], s, i, o).transpose(1, 3, 0, 2, 4, 5, 6)
    kernel = kernel.reshape(*cells, kt * s * s * i, o)
    missing = -x.shape[-1] % ALIGNED_CHANNELS
    x, kernel = (jnp.pad(a, (*((0, 0),) * axis, (0, missing), *((0, 0),) * (a.ndim - axis - 1)))
                 for a, axis in ((x, 4), (kernel, 2)))  # fmt: skip
    y = _conv2d(merge_frames(x)[0], kernel, (1, 1), list(zip(first, last, strict=True)))
    return split_frames(y[None], b, x.shape[1])


def _grouped(x, kernel, strides, padding, groups):
    """Runs one 2-D convolution for every tap in time. The compiler derives its gradients."""
    taps = _taps(x, kernel.shape[0], strides[0], padding[0])
    y = sum(
        _conv2d(merge_frames(tap)[0], k, strides[1:], padding[1:], groups) for tap, k in zip(taps, kernel, strict=True)
    )
    return split_frames(y[None], x.shape[0], taps[0].shape[1])


def _conv2d(x: Float[Array, "n h w i"], kernel: Float[Array, "kh kw i2 o"], strides, padding, groups=1):
    padding = [p if isinstance(p, tuple) else (p, p) for p in padding]
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=layout, feature_group_count=groups
    )


def _taps(x, kt, stride, padding):
    """Returns, for each temporal tap of a kernel, the frames that the tap meets."""
    x = jnp.pad(x, ((0, 0), (padding,) * 2, (0, 0), (0, 0), (0, 0)))
    frames = (x.shape[1] - kt) // stride + 1
    return [x[:, k : k + (frames - 1) * stride + 1 : stride] for k in range(kt)]
