"""Sums, softmax and statistics are taken in float32, whatever type the arrays have; in float64 where they have that."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def wide(x: ArrayLike) -> jnp.dtype:
    """float32 for an array of bfloat16, float16 or float32, float64 for one of float64."""
    return jnp.dtype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)


def widen(x: ArrayLike) -> jax.Array:
    """x in that type."""
    return jnp.asarray(x, wide(x))
