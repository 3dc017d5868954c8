"""An exponential moving average of the weights. A run tests it in place of the weights themselves."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from nl_jax.models.flat import FlatParams


class WeightAverage(NamedTuple):
    """The average after k steps, as a state of the optimiser.

    Attributes:
      weight: sum of the weights of these steps, 1 - decay^k.
      average: the average of the parameters after each of these steps; zeros before the first step.
    """

    weight: Float[Array, ""]
    average: FlatParams


def average_weights(decay: float) -> optax.GradientTransformation:
    """Returns a transformation that averages the parameters p_1 .. p_k after each step. It does not change the step.

    a_k = sum_i decay^(k-i) p_i / sum_i decay^(k-i). The initial weights of a run have no part in the average. The
    average is computed as a_k = a_(k-1) + (1 - decay) / (1 - decay^k) (p_k - a_(k-1)).

    The transformation must be the last in a chain, where the step is final.
    """

    def init(params: FlatParams) -> WeightAverage:
        return WeightAverage(jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))

    def update(updates: FlatParams, state: WeightAverage, params: FlatParams) -> tuple[FlatParams, WeightAverage]:
        weight = decay * state.weight + (1 - decay)
        params = optax.apply_updates(params, updates)
        return updates, WeightAverage(weight, optax.incremental_update(params, state.average, (1 - decay) / weight))

    return optax.GradientTransformation(init, update)


def average_of(opt_state: Any) -> WeightAverage | None:
    """Returns the average that an optimiser keeps, or None."""
    return optax.tree.get(opt_state, WeightAverage.__name__)


def tested_params(params: FlatParams, opt_state: Any) -> FlatParams:
    """Returns the weights that a run tests: the average, or without one the weights themselves."""
    found = average_of(opt_state)
    return params if found is None or not float(found.weight) else found.average  # before the first step
