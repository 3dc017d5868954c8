"""The state that training carries from step to step."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from nl_jax.models import flat
from nl_jax.training import sharding
from nl_jax.training.average import tested_params


@flax.struct.dataclass
class TrainState:
    """A plain pytree: Optax updates it and Orbax saves it. `params` and `batch_stats` are flat, see `models.flat`."""

    step: Any  # int32 ()
    params: flat.FlatParams
    batch_stats: flat.FlatParams
    opt_state: Any

    def tested_params(self) -> flat.FlatParams:
        """Returns the weights for tests: their average if the optimiser keeps one, else the weights themselves."""
        return tested_params(self.params, self.opt_state)


def create(
    build: Callable[[nnx.Rngs], nnx.Module], optimizer: optax.GradientTransformation, mesh: Mesh, seed: int
) -> TrainState:
    """Returns a new state. Every array is made on its own devices: no array is first whole on one device."""

    def init(key):
        _, params, batch_stats = flat.split(build(nnx.Rngs(key)))
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params))

    key = jax.random.key(seed)
    shardings = sharding.state_shardings(mesh, jax.eval_shape(init, key))
    return jax.jit(init, out_shardings=shardings)(key)
