"""Precise batch norm: the statistics for testing a network, measured at its present weights.

Running averages lag behind the weights and cover only a few dozen batches. The released code instead passes 200 batches
of training clips through the network before every evaluation, and pools their moments. This module does the same.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array

from nl_jax.models import flat
from nl_jax.models.norm import Norm, pooled
from nl_jax.training import sharding


def has_running_statistics(model: nnx.Module) -> bool:
    """Returns whether any norm of the network takes its statistics from the training batches."""
    return any(isinstance(module, Norm) and module.has_running_statistics for _, module in nnx.iter_modules(model))


def make_moments(
    graphdef: nnx.GraphDef, forward: Callable[[nnx.Module, dict[str, Array]], Any], mesh: Mesh
) -> Callable[[flat.FlatParams, flat.FlatParams, dict[str, Array]], flat.FlatParams]:
    """Returns the function (params, batch_stats, inputs (b,..)) -> mean and variance of this batch, for every norm.

    Args:
      graphdef: structure of the network.
      forward: the function (model, inputs) -> outputs. The network runs only for its statistics.
      mesh: the devices.
    """

    def moments(params, batch_stats, inputs):
        model = flat.merge(graphdef, params, batch_stats)
        model.train()
        model.set_attributes(momentum=0.0, raise_if_not_found=False)  # the new running statistics are the batch's
        model.set_attributes(deterministic=True, raise_if_not_found=False)  # no dropout
        forward(model, inputs)
        return flat.split(model)[2]

    return jax.jit(sharding.within(mesh, moments), out_shardings=sharding.replicated(mesh))


def precise_batch_stats(
    moments, params: flat.FlatParams, batch_stats: flat.FlatParams, batches: Iterable[dict[str, jax.Array]]
) -> flat.FlatParams:
    """Returns the moments of all batches together, laid out as `batch_stats`.

    Args:
      moments: the function of `make_moments`.
      params: parameters by name.
      batch_stats: batch norm statistics by name.
      batches: inputs of the batches.
    """
    if not batch_stats:
        return batch_stats
    found = []
    for inputs in batches:  # each batch is made while the one before it is computed
        # One batch at a time, for two reasons. Waiting inputs would take memory on the device. With several processes
        # on CPUs, programs that run at once may exchange their sums in different orders, and then wait for each other
        # for ever.
        jax.block_until_ready(found[-1:])
        found.append(moments(params, batch_stats, inputs))
    stacked = {name: jnp.stack([batch[name] for batch in found]) for name in batch_stats}
    return jax.device_put(pooled(stacked), jax.tree.map(lambda array: array.sharding, batch_stats))
