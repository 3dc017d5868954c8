"""Non-local blocks of other papers, as controls. NOT IN THE PAPER: each block here comes from another paper.

Every block is called as `NonLocalBlock` is, and a new block is the identity. A block has `attention_rows` if it sums
over positions with a weight for every pair. One letter per axis, as in `NonLocalBlock`: b items, n positions, c
channels, d inner channels. Sums run over all positions of an item (spacetime). `Variant` explains the options that all
blocks share.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from nl_jax.errors import InputError
from nl_jax.models.variant import Variant
from nl_jax.ops import nonlocal_op
from nl_jax.ops.devices import Shape
from nl_jax.ops.precision import widen


class GlobalContext(Variant):
    """z_i = x_i + W_2 relu(LN(W_1 sum_j softmax_j(W_k x_j) x_j)): one context for all positions.

    Source: Cao et al., GCNet (2019), equation 5. With `fusion="scale"` the context multiplies x: z_i = 2 sigmoid(..)
    x_i. GCNet has no factor 2 here. The factor makes a new block the identity. No norm follows W_2, and W_2 starts at
    zero. GCNet's default of d is c / 16, and here it is c / 2 as in the other blocks.

    Args:
      fusion: "add" or "scale".

    Raises:
      InputError: for another fusion.
    """

    name = "global_context"
    without = frozenset({"norm", "scale"})

    def __init__(self, channels: int, inner_channels: int | None = None, *, fusion: str = "add", **options):
        if fusion not in ("add", "scale"):
            raise InputError(f"fusion={fusion!r} is unknown; choose add or scale")
        self.fusion = fusion
        super().__init__(channels, inner_channels, **options | {"norm": "none"})

    def _build(self, d, linear):
        self.w_k = linear(self.channels, 1, bias=False)
        self.w_1 = linear(self.channels, d)
        self.layer_norm = nnx.LayerNorm(d, rngs=nnx.Rngs(0))

    def _weights(self, x):
        return jax.nn.softmax(widen(self.w_k(x)[..., 0]), axis=-1)

    def _sum(self, x, axes):
        context = jnp.einsum("bn,bnc->bc", self._weights(x).astype(x.dtype), x)[:, None]
        return jax.nn.relu(self.layer_norm(widen(self.w_1(context)))).astype(x.dtype)

    def __call__(self, x: Float[Array, "b *s c"], valid: Bool[Array, "b *s"] | None = None) -> Float[Array, "b *s c"]:
        """Returns z, as in `Variant`."""
        z = super().__call__(x, valid)
        return z if self.fusion == "add" else 2 * jax.nn.sigmoid(z - x) * x

    def _rows(self, x, positions, axes):
        return jnp.broadcast_to(self._weights(x)[:, None], (x.shape[0], len(positions), x.shape[1]))


class SimplifiedNonLocal(GlobalContext):
    """z_i = x_i + norm(W_v sum_j softmax_j(W_k x_j) x_j): one sum for all positions i, without theta.

    Source: Cao et al., GCNet (2019), equation 3.
    """

    name = "simplified"
    without = frozenset({"scale"})

    def __init__(self, channels: int, inner_channels: int | None = None, **options):
        self.fusion = "add"
        Variant.__init__(self, channels, inner_channels, **options)

    def _build(self, d, linear):
        self.w_k = linear(self.channels, 1, bias=False)

    def _width_of_sum(self, d):
        return self.channels

    def _sum(self, x, axes):
        return jnp.einsum("bn,bnc->bc", self._weights(x).astype(x.dtype), x)[:, None]


class Disentangled(Variant):
    """y_i = sum_j (softmax_j((q_i - mean q) . (k_j - mean k)) + softmax_j(W_m x_j)) g_j.

    The weights are the sum of a whitened term of pairs and a unary term. Source: Yin et al., Disentangled Non-Local
    Neural Networks (2020), equation 9.
    """

    name = "disentangled"

    def _build(self, d, linear):
        self.theta, self.phi, self.g = (linear(self.channels, d) for _ in range(3))
        self.w_m = linear(self.channels, 1, bias=False)

    def _terms(self, x):
        theta, phi = self.theta(x), self.phi(x)
        theta, phi = (a - a.mean(axis=1, keepdims=True) for a in (theta, phi))
        return theta, phi, jax.nn.softmax(widen(self.w_m(x)[..., 0]), axis=-1)

    def _sum(self, x, axes):
        theta, phi, unary = self._terms(x)
        g = self.g(x)
        pairs = nonlocal_op.gaussian(theta, phi, g, self.scale)
        return pairs + jnp.einsum("bn,bnd->bd", unary.astype(g.dtype), g)[:, None]

    def _rows(self, x, positions, axes):
        theta, phi, unary = self._terms(x)
        return nonlocal_op.gaussian_rows(theta[:, positions], phi, self.scale) + unary[:, None]


class DoubleAttention(Variant):
    """y_i = sum_k softmax_k(V x_i)_k sum_j softmax_j(B x)_jk A x_j: the block gathers d features and distributes them.

    The weight of j for i is sum_k softmax_k(V x_i)_k softmax_j(B x)_jk. Source: Chen et al., A2-Nets (2018), eq. 8.
    """

    name = "double_attention"
    without = frozenset({"scale"})

    def _build(self, d, linear):
        self.a, self.b, self.v = (linear(self.channels, d) for _ in range(3))

    def _maps(self, x):
        return jax.nn.softmax(widen(self.v(x)), axis=2), jax.nn.softmax(widen(self.b(x)), axis=1)

    def _sum(self, x, axes):
        given, gathered = (a.astype(x.dtype) for a in self._maps(x))
        return jnp.einsum("bnk,bkd->bnd", given, jnp.einsum("bmk,bmd->bkd", gathered, self.a(x)))

    def _rows(self, x, positions, axes):
        given, gathered = self._maps(x)
        return jnp.einsum("bqk,bmk->bqm", given[:, positions], gathered)


class CompactGeneralized(Variant):
    """y_ie = theta_ie 1/(n d/k) sum_{j,f} phi_jf g_jf: a sum over pairs of positions and pairs of channels.

    f runs over the d/k channels in the group of channel e. Source: Yue et al., Compact Generalized Non-local Network
    (2018), equation 8, with the dot product. The block divides by the number of pairs, as C(x) of the non-local paper
    does. Yue et al. have a scale in place of this number.

    Args:
      groups: number of groups, k. It divides d.

    Raises:
      InputError: the groups do not divide d.
    """

    name = "compact_generalized"
    without = frozenset({"scale"})
    grows, has_map = True, False

    def __init__(self, channels: int, inner_channels: int | None = None, *, groups: int = 1, **options):
        d = inner_channels or max(1, channels // 2)
        if groups < 1 or d % groups:
            raise InputError(f"groups={groups} does not divide the {d} inner channels")
        self.groups = groups
        super().__init__(channels, inner_channels, **options)

    def _build(self, d, linear):
        self.theta, self.phi, self.g = (linear(self.channels, d) for _ in range(3))

    def _sum(self, x, axes):
        theta, phi, g = (a.reshape(*a.shape[:2], self.groups, -1) for a in (self.theta(x), self.phi(x), self.g(x)))
        summed = (widen(phi) * widen(g)).mean(axis=(1, 3))
        y = (widen(theta) * summed[:, None, :, None]).reshape(*x.shape[:2], -1)
        return y if self.widens else y.astype(theta.dtype)


class SeveralHeads(Variant):
    """The embedded Gaussian with several heads: d is split, and the results are concatenated (Vaswani et al. 2017).

    `attention_rows` returns the mean over heads.

    Args:
      heads: number of heads. It divides d.

    Raises:
      InputError: the heads do not divide d.
    """

    name = "several_heads"

    def __init__(self, channels: int, inner_channels: int | None = None, *, heads: int = 4, **options):
        d = inner_channels or max(1, channels // 2)
        if heads < 1 or d % heads:
            raise InputError(f"heads={heads} does not divide the {d} inner channels")
        self.heads = heads
        super().__init__(channels, inner_channels, **options)

    def _width(self, d):
        return d // self.heads

    def _build(self, d, linear):
        self.theta, self.phi, self.g = (linear(self.channels, d) for _ in range(3))

    def _split(self, a):
        return a.reshape(*a.shape[:2], self.heads, -1).swapaxes(1, 2).reshape(-1, a.shape[1], a.shape[2] // self.heads)

    def _sum(self, x, axes):
        y = nonlocal_op.gaussian(*(self._split(part(x)) for part in (self.theta, self.phi, self.g)), self.scale)
        return y.reshape(x.shape[0], self.heads, x.shape[1], -1).swapaxes(1, 2).reshape(*x.shape[:2], -1)

    def _rows(self, x, positions, axes):
        rows = nonlocal_op.gaussian_rows(self._split(self.theta(x))[:, positions], self._split(self.phi(x)), self.scale)
        return rows.reshape(x.shape[0], self.heads, *rows.shape[1:]).mean(axis=1)


class PyramidKeys(Variant):
    """The embedded Gaussian over keys that are means of the s x s cells of a frame, for every s of a pyramid.

    Source: Zhu et al., Asymmetric Non-local Neural Networks (2019), section 3.2, applied to each frame. Cells overlap
    if s does not divide the side, as in adaptive pooling. The number of keys of a frame is the sum of s^2, which is 110
    for the sizes of Zhu et al. `attention_rows` has one weight for each of these keys, frame by frame and size by size.

    Args:
      sizes: the numbers s of cells along a side.

    Raises:
      InputError: for a size below 1.
    """

    name = "pyramid_keys"
    has_map = False  # a key is a cell

    def __init__(self, channels: int, inner_channels: int | None = None, *, sizes=(1, 3, 6, 8), **options):
        if not sizes or min(sizes) < 1:
            raise InputError(f"sizes={sizes} must be numbers of 1 or more")
        self.sizes = tuple(sizes)
        super().__init__(channels, inner_channels, **options)

    def _build(self, d, linear):
        self.theta, self.phi, self.g = (linear(self.channels, d) for _ in range(3))

    def _keys(self, x, axes):
        *_, h, w = (1, *axes)
        frames = x.reshape(x.shape[0], -1, h, w, x.shape[-1])
        pooled = []
        for size in self.sizes:
            rows, columns = (jnp.asarray(_cells(size, side), x.dtype) for side in (h, w))
            means = jnp.einsum("rh,sw,bthwc->btrsc", rows, columns, frames)
            pooled.append(means.reshape(*means.shape[:2], -1, x.shape[-1]))
        return jnp.concatenate(pooled, axis=2).reshape(x.shape[0], -1, x.shape[-1])

    def _sum(self, x, axes):
        keys = partial(self._keys, axes=axes)
        return nonlocal_op.gaussian(self.theta(x), keys(self.phi(x)), keys(self.g(x)), self.scale)

    def _rows(self, x, positions, axes):
        return nonlocal_op.gaussian_rows(self.theta(x)[:, positions], self._keys(self.phi(x), axes), self.scale)

    def key_shape(self, shape: Shape) -> Shape:
        """Returns (frames, keys of a frame)."""
        return (math.prod(shape[1:-3]) if len(shape) > 3 else 1, sum(size**2 for size in self.sizes))


def _cells(size: int, side: int) -> list[list[float]]:
    """Returns a matrix whose row i averages the places of cell i: floor(i side / size) to ceil((i + 1) side / size)."""
    bounds = [(i * side // size, -(-(i + 1) * side // size)) for i in range(size)]
    return [[1 / (last - first) if first <= place < last else 0.0 for place in range(side)] for first, last in bounds]


VARIANTS = {
    kind.name: kind
    for kind in (
        GlobalContext,
        SimplifiedNonLocal,
        Disentangled,
        DoubleAttention,
        CompactGeneralized,
        SeveralHeads,
        PyramidKeys,
    )
}
