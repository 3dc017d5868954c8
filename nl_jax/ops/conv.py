"""Spacetime convolution, written as what XLA does fast: matrix products and 2-D convolutions with time in the batch.

On XLA:CPU a convolution over three axes is several times slower than the same sums as 2-D convolutions, and the
networks here never need it: a kernel is 1 x 1 x 1, 1 x k x k, k x 1 x 1 or, in the stem and I3D 3x3x3, t x k x k.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# With at most this many channels the temporal taps are stacked into one 2-D convolution (the stem); with more, the
# stacked copies would cost more memory traffic than one convolution per tap.
MAX_STACKED_CHANNELS = 16


def conv3d(
    x: Float[Array, "b t h w i"],
    kernel: Float[Array, "kt kh kw i o"],
    strides: tuple[int, int, int] = (1, 1, 1),
    padding: tuple[int, int, int] = (0, 0, 0),
) -> Float[Array, "b t2 h2 w2 o"]:
    """Cross-correlation over time, height and width; `padding` zeros are added on both sides of each axis.

    The padding is always explicit: "SAME" pads a stride-2 kernel on one side only, unlike every published ResNet.
    """
    kt, kh, kw, i, _ = kernel.shape
    if x.shape[-1] != i:
        raise ValueError(f"the input has {x.shape[-1]} channels, the kernel {kernel.shape} takes {i}")
    x = jnp.pad(x, ((0, 0), (padding[0],) * 2, (0, 0), (0, 0), (0, 0)))
    frames = (x.shape[1] - kt) // strides[0] + 1
    if frames < 1:
        raise ValueError(f"{x.shape[1]} frames after padding are fewer than the kernel's {kt}")
    taps = [x[:, k : k + (frames - 1) * strides[0] + 1 : strides[0]] for k in range(kt)]
    if kt > 1 and i <= MAX_STACKED_CHANNELS:
        kernel = jnp.moveaxis(kernel, 0, 2).reshape(1, kh, kw, kt * i, -1)
        taps = [jnp.concatenate(taps, axis=-1)]
    return sum(_conv2d(tap, kernel[k], strides[1:], padding[1:]) for k, tap in enumerate(taps))


def _conv2d(x, kernel, strides, padding):
    """(b,t,h,w,i) with (kh,kw,i,o): every frame by itself."""
    if kernel.shape[:2] == (1, 1) and padding == (0, 0):
        return x[:, :, :: strides[0], :: strides[1]] @ kernel[0, 0]
    b, t = x.shape[:2]
    y = jax.lax.conv_general_dilated(
        x.reshape(b * t, *x.shape[2:]),
        kernel,
        strides,
        [(p, p) for p in padding],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y.reshape(b, t, *y.shape[1:])
