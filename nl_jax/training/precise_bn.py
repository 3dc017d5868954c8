"""Precise batch norm: the statistics a network is tested with, measured at its present weights.

Running averages lag behind the weights and remember a few dozen batches. The released code instead passes 200 batches
of training clips through the network before every evaluation and pools their moments; so do we.
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
    """Whether any norm of it takes its statistics from the batches that it sees in training."""
    return any(isinstance(module, Norm) and module.has_running_statistics for _, module in nnx.iter_modules(model))


def make_moments(
    graphdef: nnx.GraphDef, forward: Callable[[nnx.Module, dict[str, Array]], Any], mesh: Mesh
) -> Callable[[flat.FlatParams, flat.FlatParams, dict[str, Array]], flat.FlatParams]:
    """(params, batch_stats, inputs (b,..)) -> mean and variance of this batch under every norm's name.

    Args:
      forward: (model, inputs) -> anything: the network is run for its statistics alone.
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
    """The moments of all batches together, laid out as the statistics given."""
    if not batch_stats:
        return batch_stats
    found = []
    for inputs in batches:  # made while the batch before it is computed
        # One at a time: inputs would wait on the device, and programs that run at once on CPUs of several processes may
        # exchange their sums in another order on each, and wait for one another for ever.
        jax.block_until_ready(found[-1:])
        found.append(moments(params, batch_stats, inputs))
    stacked = {name: jnp.stack([batch[name] for batch in found]) for name in batch_stats}
    return jax.device_put(pooled(stacked), jax.tree.map(lambda array: array.sharding, batch_stats))
