"""Gradient accumulation: a step of the whole batch on less memory. It adds up the gradients of the batch's parts.

Every part holds whole groups of batch norm, so the gradient and the statistics are those of the whole batch.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from nl_jax.errors import InputError
from nl_jax.models import ResNetConfig
from nl_jax.models.flat import FlatParams
from nl_jax.models.norm import MOMENTUM, pooled


def check_parts(batch_size: int, parts: int, resnet: ResNetConfig) -> None:
    """Raises InputError if the parts of a batch would give another result than the whole batch."""
    if parts == 1:
        return
    if batch_size % parts:
        raise InputError(f"accumulate_steps={parts} does not divide batch_size={batch_size}")
    if "global" in resnet.norms():
        raise InputError(
            f"accumulate_steps={parts} with norm='global', whose statistics are of the whole batch at once; "
            "choose norm='batch' or accumulate_steps=1"
        )
    if "batch" in resnet.norms() and batch_size // parts % resnet.group_size:
        fitting = [n for n in range(1, parts + 1) if batch_size % (n * resnet.group_size) == 0] or [1]
        raise InputError(
            f"accumulate_steps={parts} cuts a batch of {batch_size} into parts that are not whole groups of "
            f"{resnet.group_size} clips for batch norm; use one of {fitting}"
        )


def over_parts(gradient: Callable, parts: int, shardings) -> Callable:
    """Returns `gradient(params, batch_stats, batch, key) -> (grads, metrics, batch_stats)` for k parts (k,b/k,..).

    Every part draws its own dropout.

    Args:
      gradient: the same function for one part, a batch (b/k,..).
      parts: k.
      shardings: shardings of the gradient's sum, by name.
    """
    if parts == 1:
        return gradient

    def of_all(params, batch_stats, batch, key):
        def of_part(total, part):
            index, batch = part
            *found, stats = gradient(params, batch_stats, batch, jax.random.fold_in(key, index))
            grads, metrics = jax.tree.map(jnp.add, total, tuple(found))
            return (jax.lax.with_sharding_constraint(grads, shardings), metrics), stats

        first = jax.tree.map(lambda array: array[0], batch)
        shapes = jax.eval_shape(gradient, params, batch_stats, first, key)
        zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), tuple(shapes[:2]))
        total, stats = jax.lax.scan(of_part, zeros, (jnp.arange(parts), batch))
        grads, metrics = jax.tree.map(lambda sum_: sum_ / parts, total)
        return grads, metrics, _together(stats)

    return of_all


def _together(stats: FlatParams) -> FlatParams:
    """Returns the running statistics after the whole batch from those after each part, all from the same start.

    A running mean moves 1 - MOMENTUM of the way to the mean of its part. So the variance of the running means is
    (1 - MOMENTUM)^2 times the variance of the parts' means. The running variance needs 1 - MOMENTUM times the variance
    of the parts' means.
    """
    return pooled(stats, weight=1 / (1 - MOMENTUM))
