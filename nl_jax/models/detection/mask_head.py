"""The mask head: which pixels of a box belong to the object."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nl_jax.models.detection.config import DetectorConfig
from nl_jax.models.detection.layers import Conv2D
from nl_jax.ops.conv import conv1x1
from nl_jax.ops.precision import widen
from nl_jax.ops.relu import relu

CONVOLUTIONS = 4


class Deconv2D(nnx.Module):
    """A 2x2 deconvolution at stride 2 with bias, kernel (2,2,i,o): every place becomes 2 x 2 places."""

    def __init__(self, features_in, features_out, *, init, dtype=jnp.float32, rngs: nnx.Rngs):
        self.kernel = nnx.Param(init(rngs.params(), (2, 2, features_in, features_out)))
        self.bias = nnx.Param(jnp.zeros(features_out))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h2 w2 o"]:
        n, h, w, i = x.shape
        kernel = self.kernel[...].astype(self.dtype).transpose(2, 0, 1, 3).reshape(i, -1)
        y = conv1x1(x.astype(self.dtype), kernel).reshape(n, h, w, 2, 2, -1)
        y = y + jnp.broadcast_to(self.bias[...].astype(self.dtype), y.shape)
        return y.swapaxes(2, 3).reshape(n, 2 * h, 2 * w, -1)


class MaskHead(nnx.Module):
    """Four 3x3 convolutions, a deconvolution and k + 1 logits for every place; class 0 is the background's, unused."""

    def __init__(self, features: int, config: DetectorConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        options = {"init": nnx.initializers.variance_scaling(2.0, "fan_out", "normal"), "dtype": dtype, "rngs": rngs}
        channels = config.mask_channels
        inputs = (features, *(channels,) * (CONVOLUTIONS - 1))
        self.convs = nnx.List([Conv2D(i, channels, 3, **options) for i in inputs])
        self.deconv = Deconv2D(channels, channels, **options)
        self.logits = Conv2D(channels, config.num_classes + 1, 1, **options)

    def __call__(self, x: Float[Array, "n s s c"], classes: Int[Array, "n"]) -> Float[Array, "n s2 s2"]:
        """The logits of the class of each box, counted from 0 without the background; the others are not computed."""
        for conv in self.convs:
            x = relu(conv(x))
        # The largest array of the head is computed again in the backward pass, at a hundredth of the cost of the rest.
        return nnx.remat(_end)(self, x, classes)


def _end(head: MaskHead, x, classes):
    x = nnx.relu(head.deconv(x))
    kernel, bias = head.logits.kernel[0, 0].astype(x.dtype), head.logits.bias[...]
    y = jnp.einsum(
        "nhwc,cn->nhw", x, kernel[:, classes + 1], preferred_element_type=jnp.promote_types(x.dtype, bias.dtype)
    )
    return widen(y) + bias[classes + 1][:, None, None].astype(widen(y).dtype)
