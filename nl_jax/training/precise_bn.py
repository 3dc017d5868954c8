"""Precise batch norm: the statistics a network is tested with, measured at its present weights.

Running averages lag behind the weights and remember a few dozen batches. The released code instead passes 200 batches
of training clips through the network before every evaluation and pools their moments; so do we.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from nl_jax.models import flat
from nl_jax.models.norm import pooled
from nl_jax.training import sharding
from nl_jax.training.step import Normalize


def make_moments(graphdef: nnx.GraphDef, normalize: Normalize, mesh: Mesh):
    """(params, batch_stats, uint8 video) -> mean and variance of this batch under every norm's name."""

    def moments(params, batch_stats, video):
        model = flat.merge(graphdef, params, batch_stats)
        model.train()
        model.set_attributes(momentum=0.0, raise_if_not_found=False)  # the new running statistics are the batch's
        model.set_attributes(deterministic=True, raise_if_not_found=False)  # no dropout
        model(normalize(video))
        return flat.split(model)[2]

    return jax.jit(sharding.within(mesh, moments), out_shardings=sharding.replicated(mesh))


def precise_batch_stats(
    moments, params: flat.FlatParams, batch_stats: flat.FlatParams, videos: Iterable[jax.Array]
) -> flat.FlatParams:
    """The moments of all clips together."""
    if not batch_stats:
        return batch_stats
    batches = []
    for video in videos:  # made while the batch before it is computed
        # One at a time: videos would wait on the device, and programs that run at once on CPUs of several processes may
        # exchange their sums in another order on each, and wait for one another for ever.
        jax.block_until_ready(batches[-1:])
        batches.append(moments(params, batch_stats, video))
    stacked = {name: jnp.stack([batch[name] for batch in batches]) for name in batch_stats}
    return pooled(stacked)
