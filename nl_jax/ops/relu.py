"""max(x, 0), computed once."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nl_jax.ops.fusion import materialize


@jax.custom_vjp
def relu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Returns max(x, 0). The gradient is 0 where the result is 0, so it needs the result and not x.

    The function suits the result of a residual block, because several operations read this result. On a CPU each of
    these operations would otherwise add up the residuals of the whole stage again.
    """
    return materialize(jax.nn.relu(x))


def _forward(x):
    y = relu(x)
    return y, y


relu.defvjp(_forward, lambda y, dy: (jnp.where(y > 0, dy, 0),))
