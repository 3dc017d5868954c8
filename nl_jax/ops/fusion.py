"""A limit on fusion by XLA."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nl_jax.ops.devices import partitioned, platform


def materialize(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Returns x as an array that is computed once and kept.

    XLA:CPU fuses a cheap producer into each of its consumers. Each consumer then computes the producer again, or reads
    its inputs in another order. An optimisation barrier does not stop this fusion. A loop of no rounds stops it, as
    long as the compiler cannot know that the loop ends at once: the loop is entered where the first element is not a
    number, and its one round has no effect.

    On a GPU a barrier is enough. Without one XLA reads the inputs of x instead of x wherever it takes this to be
    cheaper.
    """
    if platform() == "gpu":
        return jax.lax.optimization_barrier(x)
    return _through_a_loop(x) if platform() == "cpu" and not partitioned() else x


def _through_a_loop(x):
    def leave(carry):
        x, first = carry
        return jnp.where(x != x, first, x), jnp.zeros_like(first)

    return jax.lax.while_loop(lambda carry: carry[1] != carry[1], leave, (x, x.ravel()[0]))[0]
