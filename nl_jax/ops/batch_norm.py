"""Batch norm (Ioffe and Szegedy 2015) and its ReLU as one operation for GPUs.

The bandwidth of memory limits the speed of batch norm on a GPU, so every pass over x counts.

The forward pass reads x twice: for the statistics and for y. The backward pass reads x and dy twice. Without this code
XLA may take two passes for the two sums, and it keeps the gradient of the ReLU in memory between them.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nl_jax.ops.devices import partitioned
from nl_jax.ops.precision import widen


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def batch_norm(
    x: Float[Array, "g n c"], scale: Float[Array, "c"], bias: Float[Array, "c"], epsilon: float, rectified: bool
) -> tuple[Float[Array, "g n c"], Float[Array, "g c"], Float[Array, "g c"]]:
    """Normalizes x with the mean and variance of every group: y = scale (x - mean) / sqrt(var + epsilon) + bias.

    Sums are float32.

    Args:
      x: g groups of n positions with c channels.
      scale: factor of each channel.
      bias: summand of each channel.
      epsilon: number that is added to the variance.
      rectified: whether the function returns max(y, 0) in place of y.

    Returns:
      y (g,n,c) in the type of x, mean (g,c), and var (g,c), the biased variance.
    """
    return _forward(x, scale, bias, epsilon, rectified)[0]


def _forward(x, scale, bias, epsilon, rectified):
    wide, n = widen(x), x.shape[1]
    total, squares = _two_sums(wide, jnp.square(wide))
    mean = total / n
    var = jnp.maximum(squares / n - jnp.square(mean), 0)
    y = _affine(wide, scale, bias, mean, var, epsilon)
    y = (jax.nn.relu(y) if rectified else y).astype(x.dtype)
    return (y, mean, var), (x, scale, bias, mean, var)


def _affine(x, scale, bias, mean, var, epsilon):
    scale = scale[None] * jax.lax.rsqrt(var + epsilon)
    return x * scale[:, None] + (bias[None] - mean * scale)[:, None]


def _backward(epsilon, rectified, residuals, gradients):
    x, scale, bias, mean, var = residuals
    dy, dmean, dvar = gradients
    n, inverse = x.shape[1], jax.lax.rsqrt(var + epsilon)

    def wide(x, dy):
        x, dy = widen(x), widen(dy)
        if rectified:  # y > 0 is computed again, because a stored mask would be one more array to read
            dy = jnp.where(_affine(x, scale, bias, mean, var, epsilon) > 0, dy, 0)
        return x - mean[:, None], dy

    # Without barriers XLA would keep the mask of the forward pass, and would keep dz of the first pass for the second.
    if rectified:
        x, dy = jax.lax.optimization_barrier((x, dy))
    centred, dz = wide(x, dy)
    sum_dz, sum_product = _two_sums(dz, dz * centred)
    if rectified:
        x, dy, sum_dz, sum_product = jax.lax.optimization_barrier((x, dy, sum_dz, sum_product))
        centred, dz = wide(x, dy)
    outer = scale[None] * inverse
    # dx = outer (dz - mean(dz) - centred inverse^2 mean(dz centred)), plus the gradients of the outputs mean and var.
    constant = (dmean - outer * sum_dz) / n
    slope = (2 * jnp.where(var > 0, dvar, 0) - outer * jnp.square(inverse) * sum_product) / n
    dx = outer[:, None] * dz + centred * slope[:, None] + constant[:, None]
    return dx.astype(x.dtype), (inverse * sum_product).sum(axis=0), sum_dz.sum(axis=0)


batch_norm.defvjp(_forward, _backward)


def _two_sums(x: Float[Array, "g n c"], y: Float[Array, "g n c"]) -> tuple[Float[Array, "g c"], Float[Array, "g c"]]:
    """Returns the sums of both arrays over n, from one pass."""
    if partitioned():  # the compiler splits one sum over devices, but not a pair of sums
        return x.sum(axis=1), y.sum(axis=1)
    zero = jnp.zeros((), x.dtype)
    return jax.lax.reduce((x, y), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (1,))
