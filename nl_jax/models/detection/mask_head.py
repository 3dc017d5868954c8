"""The mask head: the pixels of a box that belong to the object (He et al. 2017)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nl_jax.models.detection.config import DetectorConfig
from nl_jax.models.detection.layers import Conv2D
from nl_jax.ops import devices
from nl_jax.ops.conv import conv1x1
from nl_jax.ops.precision import wide
from nl_jax.ops.relu import relu

CONVOLUTIONS = 4
# On a CPU the deconvolution takes this many boxes at once, because its result is the largest array of the head.
BOXES_AT_ONCE = 32


class Deconv2D(nnx.Module):
    """A 2x2 deconvolution at stride 2 with bias, kernel (2,2,i,o). Every place becomes 2 x 2 places."""

    def __init__(self, features_in, features_out, *, init, dtype=jnp.float32, rngs: nnx.Rngs):
        self.kernel = nnx.Param(init(rngs.params(), (2, 2, features_in, features_out)))
        self.bias = nnx.Param(jnp.zeros(features_out))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h2 w2 o"]:
        """Returns the deconvolution of x."""
        return _deconv(x.astype(self.dtype), *(a[...].astype(self.dtype) for a in (self.kernel, self.bias)))


class MaskHead(nnx.Module):
    """Four 3x3 convolutions, a deconvolution and k + 1 logits for every place. Class 0, the background, is not used.

    `features` is the number of input channels, c.
    """

    def __init__(self, features: int, config: DetectorConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        options = {"init": nnx.initializers.variance_scaling(2.0, "fan_out", "normal"), "dtype": dtype, "rngs": rngs}
        channels = config.mask_channels
        inputs = (features, *(channels,) * (CONVOLUTIONS - 1))
        self.convs = nnx.List([Conv2D(i, channels, 3, **options) for i in inputs])
        self.deconv = Deconv2D(channels, channels, **options)
        self.logits = Conv2D(channels, config.num_classes + 1, 1, **options)

    def __call__(self, x: Float[Array, "n s s c"], classes: Int[Array, "n"]) -> Float[Array, "n s2 s2"]:
        """Returns the logits of each box for its class. `classes` count from 0, without the background.

        The head does not compute the logits of other classes.
        """
        for conv in self.convs:
            x = relu(conv(x))
        x = x.astype(self.deconv.dtype)
        deconv = [a[...].astype(x.dtype) for a in (self.deconv.kernel, self.deconv.bias)]
        of_class = self.logits.kernel[0, 0].T[classes + 1].astype(x.dtype), self.logits.bias[classes + 1]
        # The backward pass computes the largest array of the head again, at a hundredth of the cost of the rest.
        end = jax.checkpoint(lambda *boxes: _end(*boxes, *deconv))
        if devices.platform() != "cpu" or devices.partitioned():  # boxes may lie on different devices
            return end(x, *of_class)
        n = x.shape[0]
        count = -(-n // BOXES_AT_ONCE)
        size = -(-n // count)
        chunks = (jnp.pad(a, ((0, count * size - n), *((0, 0),) * (a.ndim - 1))) for a in (x, *of_class))
        chunks = tuple(a.reshape(count, size, *a.shape[1:]) for a in chunks)
        y = jax.lax.map(lambda chunk: end(*chunk), chunks)
        return y.reshape(-1, *y.shape[2:])[:n]


def _end(x, of_class, class_bias, kernel, bias):
    """Returns the logits of one class a box: of_class (n,c), class_bias (n,)."""
    x = jax.nn.relu(_deconv(x, kernel, bias))
    y = jnp.einsum("nhwc,nc->nhw", x, of_class, preferred_element_type=wide(class_bias))
    return y + class_bias[:, None, None].astype(y.dtype)


def _deconv(x, kernel, bias):
    n, h, w, i = x.shape
    y = conv1x1(x, kernel.transpose(2, 0, 1, 3).reshape(i, -1)).reshape(n, h, w, 2, 2, -1)
    y = y + jnp.broadcast_to(bias, y.shape)
    return y.swapaxes(2, 3).reshape(n, 2 * h, 2 * w, -1)
