"""The feature pyramid (Lin et al. 2017). It adds the coarser maps of the backbone to the finer ones."""

from functools import partial

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from nl_jax.models.detection.layers import Conv2D


class FPN(nnx.Module):
    """The pyramid P2 to P6 of the maps C2 to C5 of the backbone.

    P_l = 3x3(M_l) with M_l = 1x1(C_l) + upsampled M_(l+1). P6 is every second place of P5.

    Args:
      features_in: channels of C2 to C5.
      features: channels of P2 to P6, c.
      dtype: type of the computation.
    """

    def __init__(self, features_in: tuple[int, ...], features: int, *, dtype=jnp.float32, rngs: nnx.Rngs):
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "uniform")
        conv = partial(Conv2D, init=init, dtype=dtype, rngs=rngs)
        self.lateral = nnx.List([conv(channels, features, 1) for channels in features_in])
        self.output = nnx.List([conv(features, features, 3) for _ in features_in])

    def __call__(self, maps: list[Float[Array, "b _ _ _"]]) -> list[Float[Array, "b _ _ c"]]:
        """Returns P2 to P6 for the maps C2 to C5."""
        inner = self.lateral[-1](maps[-1])
        pyramid = [self.output[-1](inner)]
        pyramid.append(pyramid[0][:, ::2, ::2])
        for i in reversed(range(len(maps) - 1)):
            inner = self.lateral[i](maps[i]) + _upsampled(inner)
            pyramid.insert(0, self.output[i](inner))
        return pyramid


def _upsampled(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Repeats every place as 2 x 2 places."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
