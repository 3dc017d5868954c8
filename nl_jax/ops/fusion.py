"""A limit to what XLA fuses."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nl_jax.ops.devices import partitioned, platform


def materialize(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """x, as something that is computed once and kept.

    XLA:CPU fuses a cheap producer into each of its consumers, which then compute it again, or read what it reads in an
    order of their own. No optimisation barrier stops that. A loop of no rounds does, as long as the compiler cannot
    know that it ends at once: it is entered where the first element is not a number, for one round without effect.

    On a GPU a barrier does. Without one XLA reads what x is made of instead of x wherever it thinks that cheaper.
    """
    if platform() == "gpu":
        return jax.lax.optimization_barrier(x)
    return _through_a_loop(x) if platform() == "cpu" and not partitioned() else x


def _through_a_loop(x):
    def leave(carry):
        x, first = carry
        return jnp.where(x != x, first, x), jnp.zeros_like(first)

    return jax.lax.while_loop(lambda carry: carry[1] != carry[1], leave, (x, x.ravel()[0]))[0]
