"""Spacetime convolution, written as what XLA does fast: matrix products and 2-D convolutions with time in the batch.

On XLA:CPU a convolution over three axes is several times slower than the same sums as 2-D convolutions, and the
networks here never need it: a kernel is 1 x 1 x 1, 1 x k x k, k x 1 x 1 or, in the stem and I3D 3x3x3, t x k x k.
Gradients of kernels are sums over many positions with few channels, where XLA:CPU is slowest: those of pointwise
kernels and of the stem are written as matrix products too.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nl_jax.ops.devices import merge_frames, partitioned, split_frames
from nl_jax.ops.precision import wide

# With at most this many channels the temporal taps are stacked into one 2-D convolution (the stem); with more, the
# stacked copies would cost more memory traffic than one convolution per tap.
MAX_STACKED_CHANNELS = 16
# The gradient of a k x k kernel is taken by products on CPUs when a frame has this many positions.
MIN_POSITIONS = 512


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
    if x.shape[1] + 2 * padding[0] < kt:
        raise ValueError(f"{x.shape[1] + 2 * padding[0]} frames after padding are fewer than the kernel's {kt}")
    if (kh, kw) == (1, 1) and strides[0] == 1 and padding[1:] == (0, 0):
        return _pointwise(x[:, :, :: strides[1], :: strides[2]], kernel[:, 0, 0], padding[0])
    taps = _taps(x, kt, strides[0], padding[0])
    if kt > 1 and i <= MAX_STACKED_CHANNELS:
        kernel = jnp.moveaxis(kernel, 0, 2).reshape(1, kh, kw, kt * i, -1)
        taps = [jnp.concatenate(taps, axis=-1)]
    return sum(_conv2d(tap, k, strides[1:], padding[1:]) for tap, k in zip(taps, kernel, strict=True))


def product(x: Float[Array, "*s i"], kernel: Float[Array, "i o"]) -> Float[Array, "*s o"]:
    """x @ kernel, a 1 x 1 convolution over any axes."""
    y = _pointwise(x.reshape(x.shape[0], -1, 1, 1, x.shape[-1]), kernel[None], 0)
    return y.reshape(*x.shape[:-1], -1)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _pointwise(
    x: Float[Array, "b t h w i"], kernel: Float[Array, "kt i o"], padding: int
) -> Float[Array, "b t2 h w o"]:
    """A kernel kt x 1 x 1 as one product with all its taps side by side, whose results are shifted in time and summed.

    The input is read once, and no shifted copy of it is made.
    """
    kt, _, o = kernel.shape
    y = x @ _side_by_side(kernel)
    frames = x.shape[1] + 2 * padding - kt + 1
    return sum(_shift(y[..., k * o : (k + 1) * o], k - padding, frames) for k in range(kt))


def _pointwise_forward(x, kernel, padding):
    return _pointwise(x, kernel, padding), (x, kernel)


def _pointwise_backward(padding, residuals, dy):
    x, kernel = residuals
    kt, i, o = kernel.shape
    dy = jnp.concatenate([_shift(dy, padding - k, x.shape[1]) for k in range(kt)], axis=-1)
    dkernel = _sum_of_products(*(merge_frames(a).reshape(-1, a.shape[-1]) for a in (x, dy)))
    return dy @ _side_by_side(kernel).T, dkernel.reshape(i, kt, o).swapaxes(0, 1).astype(kernel.dtype)


_pointwise.defvjp(_pointwise_forward, _pointwise_backward)


def _side_by_side(kernel: Float[Array, "kt i o"]) -> Float[Array, "i kt*o"]:
    return kernel.swapaxes(0, 1).reshape(kernel.shape[1], -1)


def _shift(x: Float[Array, "b t h w c"], start: int, frames: int) -> Float[Array, "b t2 h w c"]:
    """Frames start, start + 1, .., start + frames - 1; those that do not exist are zero."""
    before, after = max(0, -start), max(0, start + frames - x.shape[1])
    x = x[:, max(0, start) : start + frames]
    return jnp.pad(x, ((0, 0), (before, after), (0, 0), (0, 0), (0, 0)))


def _sum_of_products(x, y):
    """x^T y of (p,i) and (p,o), over many positions p.

    XLA:CPU transposes the left operand in memory first, which costs more than the product when that is the wider one.
    Without the barrier it would undo the exchange.
    """
    product = partial(jnp.matmul, preferred_element_type=wide(x))
    if x.shape[1] <= y.shape[1]:
        return product(x.T, y)
    return jax.lax.optimization_barrier(product(y.T, x)).T


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv2d(x, kernel, strides, padding):
    """(b,t,h,w,i) with (kh,kw,i,o): every frame by itself."""
    b, t = x.shape[:2]
    y = jax.lax.conv_general_dilated(
        merge_frames(x)[0],
        kernel,
        strides,
        [(p, p) for p in padding],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return split_frames(y[None], b, t)


def _conv2d_forward(x, kernel, strides, padding):
    return _conv2d(x, kernel, strides, padding), (x, kernel)


def _conv2d_backward(strides, padding, residuals, dy):
    x, kernel = residuals
    plain = partial(_conv2d.fun, strides=strides, padding=padding)
    (dx,) = jax.vjp(lambda x: plain(x, kernel), x)[1](dy)

    def by_convolution(x, dy):
        return jax.vjp(lambda kernel: plain(x, kernel), kernel)[1](dy)[0]

    def by_products(x, dy):
        return _dkernel_by_products(x, dy, kernel.shape, strides, padding)

    many_positions = dy.shape[2] * dy.shape[3] >= MIN_POSITIONS
    few_copies = strides == (1, 1) or x.shape[-1] <= MAX_STACKED_CHANNELS
    if many_positions and few_copies and not partitioned():  # a loop over frames cannot be split
        return dx, jax.lax.platform_dependent(x, dy, cpu=by_products, default=by_convolution)
    return dx, by_convolution(x, dy)


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def _dkernel_by_products(x, dy, shape, strides, padding):
    """The kernel's gradient as one matrix product for every row of the kernel and every frame.

    A stride of s makes cells of s x s pixels with s s i channels, so that a window is made of whole cells. The cells of
    a kernel's row are put side by side; its rows are then slices of that, without a copy.
    """
    kh, kw, i, o = shape
    h, w, (b, t, h2, w2, _) = *x.shape[2:4], dy.shape
    (sh, ch, after_h), (sw, cw, after_w) = (
        (s, -(-k // s), (size2 - 1 + -(-k // s)) * s - size - p)
        for k, s, p, size, size2 in zip((kh, kw), strides, padding, (h, w), (h2, w2), strict=True)
    )
    x = x.reshape(b * t, h, w, i)
    margins = ((0, 0, 0), (padding[0], after_h, 0), (padding[1], after_w, 0), (0, 0, 0))
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), margins)  # a negative margin cuts off what no window reaches
    x = x.reshape(b * t, h2 + ch - 1, sh, w2 + cw - 1, sw * i).swapaxes(2, 3)
    x = x.reshape(b * t, h2 + ch - 1, w2 + cw - 1, sh * sw * i)

    def add_frame(total, frame):
        x, dy = frame
        x = jnp.concatenate([x[:, k : k + w2] for k in range(cw)], axis=-1)
        rows = [_sum_of_products(x[k : k + h2].reshape(h2 * w2, -1), dy) for k in range(ch)]
        return total + jnp.stack(rows), None

    total = jnp.zeros((ch, cw * sh * sw * i, o), wide(x))
    total, _ = jax.lax.scan(add_frame, total, (x, dy.reshape(b * t, h2 * w2, o)))
    total = total.reshape(ch, cw, sh, sw, i, o).swapaxes(1, 2)
    return total.reshape(ch * sh, cw * sw, i, o)[:kh, :kw].astype(x.dtype)


def _taps(x, kt, stride, padding):
    """The frames that each tap of a kernel meets in time."""
    x = jnp.pad(x, ((0, 0), (padding,) * 2, (0, 0), (0, 0), (0, 0)))
    frames = (x.shape[1] - kt) // stride + 1
    return [x[:, k : k + (frames - 1) * stride + 1 : stride] for k in range(kt)]
