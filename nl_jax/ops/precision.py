"""Sums, softmax and statistics are taken in float32, whatever type the arrays have; in float64 where they have that.

A product of float32 arrays is taken at JAX's default precision: exact products on a CPU, TF32 (10 bits of each factor)
on NVIDIA GPUs from Ampere on, bfloat16 on TPUs, sums in float32 everywhere. `jax.default_matmul_precision("highest")`
around a program, or JAX_DEFAULT_MATMUL_PRECISION=highest, has float32 products.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def wide(x: ArrayLike) -> jnp.dtype:
    """float32 for an array of bfloat16, float16 or float32, float64 for one of float64."""
    return jnp.dtype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)


def widen(x: ArrayLike) -> jax.Array:
    """x in that type."""
    return jnp.asarray(x, wide(x))
