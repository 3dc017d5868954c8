"""Convolutions over images and fully connected layers, both with a bias, for detection heads."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from nl_jax.ops.conv import conv1x1, conv3d


class Conv2D(nnx.Module):
    """A convolution with stride 1, a kernel (k,k,i,o) and a bias. The padding is half a kernel, so h and w stay.

    Args:
      features_in: input channels, i.
      features_out: output channels, o.
      kernel: side of the kernel, k. It is odd.
      init: initializer of the kernel. The bias starts at zero.
      dtype: type of the computation.
    """

    def __init__(self, features_in, features_out, kernel, *, init, dtype=jnp.float32, rngs: nnx.Rngs):
        self.kernel = nnx.Param(init(rngs.params(), (kernel, kernel, features_in, features_out)))
        self.bias = nnx.Param(jnp.zeros(features_out))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """Returns the convolution of x."""
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        half = kernel.shape[0] // 2
        y = conv3d(x.astype(self.dtype)[:, None], kernel[None], (1, 1, 1), (0, half, half))[:, 0]
        return y + jnp.broadcast_to(bias, y.shape)


def dense(features_in, features_out, *, init, dtype=jnp.float32, rngs: nnx.Rngs) -> nnx.Linear:
    """Returns a fully connected layer x @ kernel + bias, with a kernel (features_in, features_out).

    `init` is the initializer of the kernel, and `dtype` is the type of the computation.
    """
    return nnx.Linear(
        features_in,
        features_out,
        kernel_init=init,
        dtype=dtype,
        dot_general=lambda x, kernel, *_, **__: conv1x1(x, kernel),  # conv1x1 has a faster gradient on a CPU
        rngs=rngs,
    )
