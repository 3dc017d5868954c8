"""Precise batch norm: the statistics a network is tested with, measured at its present weights.

Running averages lag behind the weights and remember a few dozen batches. The released code instead passes 200 batches
of training clips through the network before every evaluation and pools their moments; so do we.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from flax import nnx

from nl_jax.models import flat
from nl_jax.training.step import Normalize


def make_moments(graphdef: nnx.GraphDef, normalize: Normalize):
    """(params, batch_stats, uint8 video) -> mean and variance of this batch under every norm's name."""

    def moments(params, batch_stats, video):
        model = flat.merge(graphdef, params, batch_stats)
        model.train()
        model.set_attributes(momentum=0.0, raise_if_not_found=False)  # the new running statistics are the batch's
        model.set_attributes(deterministic=True, raise_if_not_found=False)  # no dropout
        model(normalize(video))
        return flat.split(model)[2]

    return jax.jit(moments)


def precise_batch_stats(
    moments, params: flat.FlatParams, batch_stats: flat.FlatParams, videos: Iterable[jax.Array]
) -> flat.FlatParams:
    """The moments of all clips together."""
    if not batch_stats:
        return batch_stats
    batches = [moments(params, batch_stats, video) for video in videos]
    stacked = {name: jnp.stack([batch[name] for batch in batches]) for name in batch_stats}
    return {name: _pooled(name, stacked) for name in stacked}


def _pooled(name: str, stacked: flat.FlatParams) -> jax.Array:
    """The mean of the means; for a variance the mean of the variances and the variance of the means."""
    pooled = stacked[name].mean(axis=0)
    if name.endswith("/var"):
        pooled += stacked[name.removesuffix("/var") + "/mean"].var(axis=0)
    return pooled
