"""The common part of the blocks in `nl_jax.models.variants`, which are not in the paper."""

import math

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from nl_jax.errors import InputError
from nl_jax.models.arguments import INITS, check_block, check_choice, checked_positions
from nl_jax.models.nonlocal_block import NonLocalBlock
from nl_jax.models.norm import KINDS, Norm


class Variant(NonLocalBlock):
    """A block z = x + norm(W_z y). The method `_sum` of a subclass computes y (b,n,d or c) from x (b,n,c).

    Args:
      channels: channels of input and output, c.
      inner_channels: inner channels, d. The default is c // 2.
      norm: the norm after W_z, as in `NonLocalBlock`. Its scale starts at zero. With "none" W_z starts at zero.
      init: initial values of the kernels: "he" or "normal".
      scale: factor of the scores, if the block has scores of pairs. None is 1, "rsqrt_d" is 1/sqrt(d).
      group_size: clips per batch norm group.
      dtype: type of the computation.

    Raises:
      InputError: for a choice that does not exist.
    """

    name = ""
    without: frozenset[str] = frozenset()  # options of this class that have no effect on the block
    grows = False  # whether y is a product of features, which float16 may not hold

    def __init__(
        self,
        channels: int,
        inner_channels: int | None = None,
        *,
        norm: str = "batch",
        init: str = "he",
        scale: float | str | None = None,
        group_size: int = 8,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_block(channels, inner_channels, init, scale, dtype)
        check_choice("norm", norm, (*KINDS, "none"))
        d = inner_channels or max(1, channels // 2)
        # The attributes by which a `NonLocalBlock` describes itself.
        self.channels, self.pairwise, self.axes = channels, self.name, "spacetime"
        self.widens = self.grows and jnp.dtype(dtype) == jnp.float16
        self.subsample = self.time_group = None
        self.scale = 1.0 if scale is None else 1 / math.sqrt(self._width(d)) if scale == "rsqrt_d" else float(scale)

        def linear(features_in, features_out, kernel_init=INITS[init], bias=True, dtype=dtype):
            return nnx.Linear(features_in, features_out, use_bias=bias, kernel_init=kernel_init, dtype=dtype, rngs=rngs)

        self._build(d, linear)
        init_z = nnx.initializers.zeros if norm == "none" else INITS[init]
        self.w_z = linear(self._width_of_sum(d), channels, init_z, dtype=jnp.float32 if self.widens else dtype)
        self.norm = None if norm == "none" else Norm(channels, kind=norm, scale_init=0.0, group_size=group_size)

    def _width(self, d: int) -> int:
        return d

    def _width_of_sum(self, d: int) -> int:
        return d

    def __call__(self, x: Float[Array, "b *s c"], valid: Bool[Array, "b *s"] | None = None) -> Float[Array, "b *s c"]:
        """Returns z, for video (b,t,h,w,c), images (b,h,w,c) or sequences (b,t,c).

        Raises:
          InputError: for an input that does not fit the block, or for `valid`, which no variant takes.
        """
        self._check_input(x, valid)
        y = self.w_z(self._sum(x.reshape(x.shape[0], -1, x.shape[-1]), x.shape[1:-1]))
        y = jnp.broadcast_to(y, (x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])).reshape(x.shape)
        return x + (y if self.norm is None else self.norm(y)).astype(x.dtype)

    def attention_rows(
        self, x: Float[Array, "b *s c"], positions: Int[Array, "q"], valid: Bool[Array, "b *s"] | None = None
    ) -> Float[Array, "b q m"]:
        """Returns the weights of the m keys for every position of `positions`, counted in row-major order.

        x is as in a call.

        Raises:
          InputError: for an input that does not fit the block, for a position that does not exist, for `valid`, which
            no variant takes, or for a block whose weights do not belong to pairs of positions. Inside `jax.jit` the row
            of a position that does not exist is NaN.
        """
        self._check_input(x, valid)
        positions = checked_positions(positions, self._positions(x.shape), x.shape)
        rows = self._rows(x.reshape(x.shape[0], -1, x.shape[-1]), positions, x.shape[1:-1])
        exists = (positions >= 0) & (positions < self._positions(x.shape))
        return jnp.where(exists[:, None], rows, jnp.nan)

    def _check_input(self, x, valid) -> None:
        self._check(x.shape, None)
        if valid is not None:
            raise InputError(f"{self.name} sums over all positions: valid is for the paper's block alone")

    def _rows(self, x, positions, axes):
        raise InputError(f"{self.name} has no weight for a pair of positions")
