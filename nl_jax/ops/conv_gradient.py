"""The gradient of a convolution's kernel.

This gradient is a sum over many positions with few channels, and XLA:CPU computes it slowly. On a CPU this module
computes it as a series of matrix products. Each product covers one frame, a strip of a large frame, or several small
frames, so that the operands stay in the cache. On a GPU the module uses the gradient that JAX derives.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nl_jax.ops.devices import merge_frames, partitioned, platform
from nl_jax.ops.precision import wide

# The gradient of a kernel over time is computed frame by frame if a frame has at least this many positions.
MIN_POSITIONS = 512
# If a frame has fewer positions than this, one product takes several frames.
POSITIONS = 1024
# With more input channels than this, copying the windows of a strided kernel costs too much.
MAX_STRIDED_CHANNELS = 16
# A product copies at most this many numbers. A larger frame (an image) is divided into strips of rows.
MAX_LAID_OUT = 2**22


def kernel_gradient(
    conv,
    x: Float[Array, "b t h w i"],
    kernel: Float[Array, "kt kh kw i o"],
    dy: Float[Array, "b t2 h2 w2 o"],
    strides: tuple[int, int, int],
    padding: tuple[int, int, int],
) -> Float[Array, "kt kh kw i o"]:
    """Returns the gradient of the kernel.

    Args:
      conv: function of x and kernel, the convolution.
      x: input of the convolution.
      kernel: kernel of the convolution.
      dy: gradient of conv(x, kernel).
      strides: strides of the convolution, in the order (t, h, w).
      padding: zeros on both sides of each axis, in the order (t, h, w).
    """
    kt, kh, kw, i, _ = kernel.shape

    def by_convolution():
        return jax.vjp(lambda kernel: conv(x, kernel), kernel)[1](dy)[0]

    where = platform()
    if where == "gpu":
        return by_convolution()
    looped = not partitioned()  # the compiler cannot split a loop over frames
    large = looped and dy.shape[2] * dy.shape[3] >= MIN_POSITIONS
    if (kh, kw) == (1, 1) and strides[0] == 1 and padding[1:] == (0, 0):
        if kt > 1 and large:
            if where != "cpu":
                return by_convolution()
            return _over_time(x[:, :, :: strides[1], :: strides[2]], dy, kt, padding[0]).astype(kernel.dtype)
        return _at_once(x[:, :, :: strides[1], :: strides[2]], dy, kt, padding[0]).astype(kernel.dtype)
    if where == "cpu" and looped and (strides[1:] == (1, 1) or i <= MAX_STRIDED_CHANNELS):
        return _over_frames(x, dy, kernel.shape, strides, padding).astype(kernel.dtype)
    return by_convolution()


def _at_once(x, dy, kt, padding):
    """Computes the gradient of a k x 1 x 1 kernel as one product, with a shifted dy for each tap side by side."""
    dy = jnp.concatenate([_shift(dy, padding - k, x.shape[1]) for k in range(kt)], axis=-1)
    total = _sum_of_products(*(merge_frames(array).reshape(-1, array.shape[-1]) for array in (x, dy)))
    return total.reshape(x.shape[-1], kt, -1).swapaxes(0, 1)[:, None, None]


def _over_time(x, dy, kt, padding):
    """Computes the gradient of a k x 1 x 1 kernel with one product for each frame. Its k neighbours lie side by side.

    The neighbours are frames of x or of dy, whichever has fewer channels. A tap k of x's frame t + k - padding meets
    dy's frame t, so a tap kt - 1 - k of dy's frame u + (kt - 1 - k) - (kt - 1 - padding) meets x's frame u.
    """
    if dy.shape[-1] < x.shape[-1]:
        return jnp.flip(_over_time(dy, x, kt, kt - 1 - padding), 0).swapaxes(-1, -2)
    (b, t, h, w, i), o = dy.shape[:4] + x.shape[-1:], dy.shape[-1]
    x = _shift(x, -padding, t + kt - 1).reshape(-1, h * w, i)

    def add_frame(total, frame):
        first, dy = frame
        taps = jax.lax.dynamic_slice_in_dim(x, first, kt)
        return total + _sum_of_products(jnp.concatenate(list(taps), axis=-1), dy), None

    first = jnp.arange(b * (t + kt - 1)).reshape(b, -1)[:, :t].ravel()
    total, _ = jax.lax.scan(add_frame, jnp.zeros((kt * i, o), wide(x)), (first, dy.reshape(b * t, h * w, o)))
    return total.reshape(kt, 1, 1, i, o)


def _over_frames(x, dy, shape, strides, padding):
    """Computes one matrix product for every row of the kernel and every turn. The taps in time become channels of x.

    A turn is a frame of dy, a strip of its rows, or several frames. With a stride of s, cells of s x s pixels become
    places with s s i channels. So a window has only whole cells. The cells of one row of the kernel lie side by side,
    and the rows are slices of the result.
    """
    kt, kh, kw, i, o = shape
    h, w, (b, t2, h2, w2, _) = *x.shape[2:4], dy.shape
    (sh, ch, after_h), (sw, cw, after_w) = (
        (s, -(-k // s), (size2 - 1 + -(-k // s)) * s - size - p)
        for k, s, p, size, size2 in zip((kh, kw), strides[1:], padding[1:], (h, w), (h2, w2), strict=True)
    )
    margins = ((0, 0, 0), (padding[0],) * 2 + (0,), (padding[1], after_h, 0), (padding[2], after_w, 0), (0, 0, 0))
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), margins)  # a negative margin cuts off pixels that no window reaches
    x = x.reshape(*x.shape[:2], h2 + ch - 1, sh, w2 + cw - 1, sw * i).swapaxes(3, 4)
    x = x.reshape(*x.shape[:4], sh * sw * i)
    taps = [x[:, k : k + (t2 - 1) * strides[0] + 1 : strides[0]] for k in range(kt)]
    x = jnp.concatenate(taps, axis=-1).reshape(b * t2, *x.shape[2:4], -1)

    # XLA removes a loop of one turn. Then it would copy the strip when x is ready, and keep the copy until dy is ready.
    least = max(-(-h2 * w2 * cw * x.shape[-1] // MAX_LAID_OUT), 2 if b * t2 == 1 else 1)
    strips = next(n for n in range(least, h2 + 1) if h2 % n == 0) if least < h2 else h2
    high = h2 // strips  # rows of dy in a strip
    some = min(-(-POSITIONS // (h2 * w2)), b * t2) if strips == 1 else 1
    some = next(n for n in range(some, b * t2 + 1) if b * t2 % n == 0)  # frames in a turn

    def add_turn(total, turn):
        frame, first, dy = turn
        part = jax.lax.dynamic_slice(x, (frame, first, 0, 0), (some, high + ch - 1, *x.shape[2:]))
        part = jnp.concatenate([part[:, :, k : k + w2] for k in range(cw)], axis=-1)
        rows = [_sum_of_products(part[:, k : k + high].reshape(len(dy), -1), dy) for k in range(ch)]
        return total + jnp.stack(rows), None

    total = jnp.zeros((ch, cw * x.shape[-1], o), wide(x))
    frame, first = jnp.meshgrid(some * jnp.arange(b * t2 // some), high * jnp.arange(strips), indexing="ij")
    dy = dy.reshape(frame.size, some * high * w2, o)
    total, _ = jax.lax.scan(add_turn, total, (frame.ravel(), first.ravel(), dy))
    total = total.reshape(ch, cw, kt, sh, sw, i, o).transpose(2, 0, 3, 1, 4, 5, 6)
    return total.reshape(kt, ch * sh, cw * sw, i, o)[:, :kh, :kw]


def _sum_of_products(x, y):
    """Returns x^T y of (p,i) and (p,o), a sum over many positions p.

    XLA:CPU first transposes the left operand in memory. For the wider array this costs more than the product, so the
    narrower array is the left operand. Without the barrier XLA would exchange the operands again.
    """
    if x.shape[1] <= y.shape[1]:
        return jnp.matmul(x.T, y, preferred_element_type=wide(x))
    return jax.lax.optimization_barrier(jnp.matmul(y.T, x, preferred_element_type=wide(x))).T


def _shift(x: Float[Array, "b t h w c"], start: int, frames: int) -> Float[Array, "b t2 h w c"]:
    """Returns the frames start, start + 1, .., start + frames - 1. Frames that do not exist are zero."""
    before = min(frames, max(0, -start))
    x = x[:, max(0, start) : max(0, start + frames)]
    return jnp.pad(x, ((0, 0), (before, frames - before - x.shape[1]), (0, 0), (0, 0), (0, 0)))
