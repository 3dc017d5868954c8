"""Precise batch norm: the statistics a network is tested with, measured at its present weights.

Running averages lag behind the weights and remember a few dozen batches. The released code instead passes 200 batches
of training clips through the network before every evaluation and pools their moments; so do we.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from flax import nnx

from nl_jax.models import flat
from nl_jax.training.step import normalize


def make_moments(graphdef: nnx.GraphDef):
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
    """The moments of all clips together: E[x] and E[x^2] - E[x]^2 over the batches."""
    if not batch_stats:
        return batch_stats
    total, count = None, 0
    for video in videos:
        new = _raw_moments(moments(params, batch_stats, video))
        total = new if total is None else jax.tree.map(jnp.add, total, new)
        count += 1
    mean = {name: value / count for name, value in total.items()}
    return {
        name: mean[name] - jnp.square(mean[_mean_of(name)]) if name.endswith("/var") else mean[name] for name in mean
    }


def _raw_moments(stats: flat.FlatParams) -> flat.FlatParams:
    return {
        name: value + jnp.square(stats[_mean_of(name)]) if name.endswith("/var") else value
        for name, value in stats.items()
    }


def _mean_of(name: str) -> str:
    return name.removesuffix("/var") + "/mean"
