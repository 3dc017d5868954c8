"""The type of sums, softmax and statistics: float32 for every array type, except float64 for float64 arrays.

A product of float32 arrays has JAX's default precision. Products are exact on a CPU, TF32 (10 bits of each factor) on
NVIDIA GPUs from Ampere on, and bfloat16 on TPUs. Sums are float32 everywhere. `jax.default_matmul_precision("highest")`
around a program, or JAX_DEFAULT_MATMUL_PRECISION=highest, gives float32 products.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def wide(x: ArrayLike) -> jnp.dtype:
    """Returns float32 for an array of bfloat16, float16 or float32, and float64 for an array of float64."""
    return jnp.dtype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)


def widen(x: ArrayLike) -> jax.Array:
    """Returns x in the type that `wide` gives for it."""
    return jnp.asarray(x, wide(x))
