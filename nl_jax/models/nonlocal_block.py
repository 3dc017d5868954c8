"""The non-local block of section 3.3: z = W_z y + x, where y is the non-local operation on x."""

import math
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from nl_jax.errors import InputError
from nl_jax.models import arguments
from nl_jax.models.norm import KINDS, Norm
from nl_jax.ops import nonlocal_op
from nl_jax.ops.conv import conv1x1
from nl_jax.ops.devices import Shape, by_query, merge_frames, split_frames
from nl_jax.ops.pool import max_pool
from nl_jax.ops.precision import widen

PAIRWISE = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")
AXES = ("spacetime", "space", "time")
SUBSAMPLE = (None, "before", "after")


class NonLocalBlock(nnx.Module):
    """The non-local block z_i = norm(W_z y_i) + x_i with y_i = 1/C(x) sum_j f(x_i, x_j) W_g x_j (equations 1 and 6).

    Input and output are (b,t,h,w,c) video, (b,h,w,c) images or (b,t,c) sequences. A new block is the identity: the
    scale of its norm starts at zero. Without a norm W_z starts at zero. So inserting a block does not change a trained
    network.

    Args:
      channels: channels of input and output, c.
      inner_channels: channels of theta, phi and g, d. The default is c // 2, the paper's bottleneck.
      pairwise: f. One of gaussian, embedded_gaussian, dot_product, concatenation (section 3.2).
      axes: the positions that the sum over j runs over: every position (spacetime), the positions of the same frame
        (space) or of the same place (time); section 5.1, table 2d.
      subsample: 2x2 max pooling of the keys, over space or, for a sequence, over time. None, "before" phi and g (the
        released code) or "after" them (the paper). An axis of one position is not pooled.
      time_group: the sum over j runs over the positions of a group of this many frames. By default it runs over all
        frames. The released code has groups at res3 of 128-frame clips to save memory. This function differs from the
        paper's, because no position sees the other groups.
      scale: factor of the scores of the two Gaussians. None is 1 as in the paper, "rsqrt_d" is 1/sqrt(d) as in the
        released code.
      norm: the norm after W_z: "batch" as in the paper, "affine", "global", "frozen" (see `Norm`) or "none".
      bias: whether theta, phi and g have a bias.
      out_bias: whether W_z has a bias.
      init: initial values of the kernels: "he" as in the paper, or "normal" for N(0, 0.01) as in the released code.
      norm_scale: initial scale of the norm. A network that is trained from scratch need not start at the identity. With
        a scale above 0 all layers of the block get a gradient from the first step.
      group_size: clips per batch norm group.
      dtype: type of the computation. Parameters, statistics, softmax and sums are float32. The largest float16 is
        65504, and dot product and concatenation multiply activations without a bound. So with dtype float16 these two
        compute in float32 up to the norm.

    Raises:
      InputError: for an unknown choice, axes that the input does not have, subsampling with axes="time", an empty
        input, or an input with another number of channels.
    """

    has_map = True  # whether the block has one weight for each pair of positions; a `Variant` may not

    def __init__(
        self,
        channels: int,
        inner_channels: int | None = None,
        *,
        pairwise: str = "embedded_gaussian",
        axes: str = "spacetime",
        subsample: str | None = None,
        time_group: int | None = None,
        scale: float | str | None = None,
        norm: str = "batch",
        bias: bool = True,
        out_bias: bool = True,
        init: str = "he",
        norm_scale: float = 0.0,
        group_size: int = 8,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        arguments.check_block(channels, inner_channels, init, scale, dtype)
        arguments.check_count("time_group", time_group, or_none=True)
        arguments.check_choice("pairwise", pairwise, PAIRWISE)
        arguments.check_choice("axes", axes, AXES)
        arguments.check_choice("subsample", subsample, SUBSAMPLE)
        arguments.check_choice("norm", norm, (*KINDS, "none"))
        arguments.check_number("norm_scale", norm_scale)
        if subsample and axes == "time":
            raise InputError(f"subsample={subsample!r} pools over space, where axes='time' has no neighbours to pool")
        if norm == "none" and norm_scale:
            raise InputError(f"norm_scale={norm_scale} is the scale of a norm, and norm='none' has none; set it to 0")
        if time_group is not None and axes != "spacetime":
            raise InputError(f"time_group={time_group} with axes={axes!r}: choose axes='spacetime', or no time_group")

        d = inner_channels or max(1, channels // 2)
        width = channels if pairwise == "gaussian" else d
        self.pairwise, self.axes, self.subsample, self.time_group = pairwise, axes, subsample, time_group
        self.channels = channels
        self.widens = jnp.dtype(dtype) == jnp.float16 and pairwise in ("dot_product", "concatenation")
        self.scale = 1.0 if scale is None else 1 / math.sqrt(width) if scale == "rsqrt_d" else float(scale)

        def pointwise(features_in, features_out, use_bias, kernel_init, dtype=dtype):
            return nnx.Linear(
                features_in,
                features_out,
                use_bias=use_bias,
                kernel_init=kernel_init,
                dtype=dtype,
                dot_general=_product,
                rngs=rngs,
            )

        kernels = arguments.INITS[init]
        if pairwise != "gaussian":
            self.theta = pointwise(channels, d, bias, kernels)
            self.phi = pointwise(channels, d, bias, kernels)
        if pairwise == "concatenation":
            self.w_f = pointwise(2 * d, 1, False, kernels)
        self.g = pointwise(channels, d, bias, kernels)
        init_z = nnx.initializers.zeros if norm == "none" else kernels
        self.w_z = pointwise(d, channels, out_bias, init_z, jnp.float32 if self.widens else dtype)
        self.norm = None if norm == "none" else Norm(channels, kind=norm, scale_init=norm_scale, group_size=group_size)

    def __call__(self, x: Float[Array, "b *s c"], valid: Bool[Array, "b *s"] | None = None) -> Float[Array, "b *s c"]:
        """Returns z.

        z has a value at invalid positions too, and this value depends on x there. With norm="batch" or "global" it
        enters the statistics.

        Args:
          x: videos, images or sequences. *s are the axes of the positions.
          valid: whether each position is a key. The sum over j runs over the valid positions, and C(x) counts or sums
            them alone. With subsampling, a pooled key is the maximum of the valid positions of its window. It is valid
            if the window has a valid position. If a sum has no valid key, y is 0. By default all positions are valid.

        Raises:
          InputError: for an input that does not fit the block (see the class).
        """
        theta, phi, g, valid = self._embed(x, valid)
        if self.widens:
            theta, phi, g = map(widen, (theta, phi, g))
        # If frames are split over devices, `by_query` gathers the keys of other devices. The dot product does not need
        # them: every device sums over its own keys, and the compiler adds up the sums.
        across = by_query if self.axes != "space" and not self.time_group else lambda operation: operation
        if self.pairwise == "dot_product":
            y = nonlocal_op.dot_product(theta, phi, g, valid)
        elif self.pairwise == "concatenation":
            y = _summed(across, nonlocal_op.concatenation, *self._halves(theta, phi), g, valid)
        else:
            y = _summed(across, partial(nonlocal_op.gaussian, scale=self.scale), theta, phi, g, valid)
        y = self.w_z(self._unfold(y, x.shape))
        if self.norm is not None:
            y = self.norm(y)
        return x + y.astype(x.dtype) if self.widens else x + y

    def attention_rows(
        self, x: Float[Array, "b *s c"], positions: Int[Array, "q"], valid: Bool[Array, "b *s"] | None = None
    ) -> Float[Array, "b2 q m"]:
        """Returns f(x_i, x_j) / C(x) for the given positions i and every j, without forming the whole n x m matrix.

        b2 is b times the number of frame groups for axes="spacetime", b t for "space" and b h w for "time". The m keys
        are in row-major order, after subsampling (see `key_shape`).

        Args:
          x: as in a call.
          positions: the positions i, counted in row-major order over the axes that the block sums over.
          valid: as in a call.

        Raises:
          InputError: for an input that does not fit the block, or a position that does not exist. Inside `jax.jit` the
            positions are not known, and the row of a position that does not exist is NaN.
        """
        self._check(x.shape, valid)
        positions = arguments.checked_positions(positions, self._positions(x.shape), x.shape)
        theta, phi, _, valid = self._embed(x, valid)
        theta = theta.at[:, positions].get(mode="fill", fill_value=jnp.nan)
        if self.widens:
            theta, phi = widen(theta), widen(phi)
        if self.pairwise == "dot_product":
            return nonlocal_op.dot_product_rows(theta, phi, valid)
        if self.pairwise == "concatenation":
            return nonlocal_op.concatenation_rows(*self._halves(theta, phi), valid)
        return nonlocal_op.gaussian_rows(theta, phi, self.scale, valid)

    def key_shape(self, shape: Shape) -> Shape:
        """Returns the lengths of the axes of the m keys, for an input of this shape. Their product is m."""
        axes = shape[1:-1]
        if self.subsample:
            axes = tuple(a // k for a, k in zip(axes, self._pool_kernel(axes), strict=True))
        if self.time_group:
            axes = (self.time_group, *axes[1:])
        return axes[-2:] if self.axes == "space" else axes[:1] if self.axes == "time" else axes

    def _positions(self, shape: Shape) -> int:
        """Returns n, the number of positions that one sum runs over, before subsampling, for an input of this shape."""
        axes = shape[1:-1]
        if self.time_group:
            axes = (self.time_group, *axes[1:])
        return math.prod(axes[-2:] if self.axes == "space" else axes[:1] if self.axes == "time" else axes)

    def _embed(self, x, valid):
        """Returns theta (b2,n,d), phi (b2,m,d), g (b2,m,d) and valid (b2,m).

        b2 holds b and the axes that the block does not sum over.
        """
        self._check(x.shape, valid)
        if self.subsample == "before":
            keys, valid = self._pool(x, valid), self._pool_valid(valid)
        else:
            keys = x
        theta, phi, g = x, keys, self.g(keys)
        if self.pairwise != "gaussian":
            theta, phi = self.theta(x), self.phi(keys)
        if self.subsample == "after":
            phi, g, valid = self._pool(phi, valid), self._pool(g, valid), self._pool_valid(valid)
        if valid is not None:
            valid = self._fold(valid[..., None])[..., 0]
        return self._fold(theta), self._fold(phi), self._fold(g), valid

    def _halves(self, theta, phi):
        """Returns a (b,n) and p (b,m) with w_f . [theta_i, phi_j] = a_i + p_j."""
        w_theta, w_phi = jnp.split(self.w_f.kernel[:, 0].astype(theta.dtype), 2)
        return theta @ w_theta, phi @ w_phi

    def _fold(self, x):
        b, *axes, c = x.shape
        if self.axes == "time":
            return jnp.moveaxis(x, 1, -2).reshape(-1, axes[0], c)
        if len(axes) == 3 and (self.axes == "space" or self.time_group):
            x = x.reshape(b, -1, (self.time_group or 1) * math.prod(axes[1:]), c)
            return merge_frames(x)[0]
        return x.reshape(b, -1, c)

    def _unfold(self, y, shape):
        b, *axes, _ = shape
        if self.axes == "time":
            return jnp.moveaxis(y.reshape(b, *axes[1:], axes[0], y.shape[-1]), -2, 1)
        if len(axes) == 3 and (self.axes == "space" or self.time_group):
            y = split_frames(y[None], b, y.shape[0] // b)
        return y.reshape(b, *axes, y.shape[-1])

    def _pool_kernel(self, axes: Shape) -> Shape:
        kernel = {1: (2,), 2: (2, 2), 3: (1, 2, 2)}[len(axes)]
        return tuple(min(k, a) for k, a in zip(kernel, axes, strict=True))  # an axis of one position is not pooled

    def _pool(self, x, valid):
        """Returns the maximum over the valid positions of every window, and 0 where a window has none."""
        kernel = self._pool_kernel(x.shape[1:-1])
        if valid is None:
            return max_pool(x, kernel, kernel, (0,) * len(kernel))
        pooled = max_pool(jnp.where(valid[..., None], x, -jnp.inf), kernel, kernel, (0,) * len(kernel))
        return jnp.where(self._pool_valid(valid)[..., None], pooled, 0)

    def _pool_valid(self, valid):
        """Returns whether each window has a valid position."""
        if valid is None:
            return None
        kernel = self._pool_kernel(valid.shape[1:])
        return max_pool(valid[..., None].astype(jnp.float32), kernel, kernel, (0,) * len(kernel))[..., 0] > 0

    def _check(self, shape: Shape, valid: Array | None) -> None:
        if len(shape) not in (3, 4, 5):
            raise InputError(f"a non-local block takes (b,t,h,w,c), (b,h,w,c) or (b,t,c), not shape {shape}")
        if shape[-1] != self.channels:
            hint = "; move axis 1 to the end: channels are the last axis" if shape[1] == self.channels else ""
            raise InputError(
                f"the block takes {self.channels} channels, and an input of shape {shape} has {shape[-1]}{hint}"
            )
        if not math.prod(shape):
            raise InputError(
                f"an input of shape {shape} is empty: a non-local block takes one item and position or more"
            )
        if (self.axes == "time" and len(shape) == 4) or (self.axes == "space" and len(shape) == 3):
            found = "images (b,h,w,c)" if len(shape) == 4 else "a sequence (b,t,c)"
            raise InputError(f"axes={self.axes!r} cannot be summed over in {found} of shape {shape}")
        if valid is not None and valid.shape != shape[:-1]:
            raise InputError(f"valid has shape {valid.shape}: give one truth value a position, shape {shape[:-1]}")
        if valid is not None and valid.dtype != bool:
            raise InputError(f"valid has dtype {valid.dtype}: give truth values (bool), such as mask > 0")
        if self.time_group and (len(shape) != 5 or shape[1] % self.time_group):
            raise InputError(f"time_group={self.time_group} does not divide the frames of an input of shape {shape}")


def _product(x, kernel, *_, **__):
    """Is the `dot_general` of a linear layer. Its gradient is faster on a CPU.

    It is a function of the module, because only modules with the same function have the same structure in JAX.
    """
    return conv1x1(x, kernel)


def _summed(across, operation, queries, keys, values, valid):
    """Returns operation(queries, keys, values, valid=valid). `across` splits the queries over devices."""
    if valid is None:
        return across(operation)(queries, keys, values)
    return across(lambda *arrays: operation(*arrays[:3], valid=arrays[3]))(queries, keys, values, valid)
