"""A limit on fusion by XLA."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nl_jax.ops.devices import partitioned, platform


def materialize(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Returns x as an array that is computed once and kept.

    XLA:CPU fuses a cheap producer into each of its consumers. Each consumer then computes the producer again, or reads
    the inputs of the producer in another order. An optimization barrier does not stop this fusion. A loop stops it, if
    the compiler cannot know that the loop has no rounds. The loop here runs only if the first element of x is NaN, and
    then its one round has no effect.

    On a GPU a barrier is enough. Without a barrier XLA reads the inputs of x in place of x wherever it estimates that
    this is cheaper.
    """
    if platform() == "gpu":
        return jax.lax.optimization_barrier(x)
    return _through_a_loop(x) if platform() == "cpu" and not partitioned() else x


def _through_a_loop(x):
    def leave(carry):
        x, first = carry
        return jnp.where(x != x, first, x), jnp.zeros_like(first)

    return jax.lax.while_loop(lambda carry: carry[1] != carry[1], leave, (x, x.ravel()[0]))[0]
