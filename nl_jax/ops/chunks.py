"""Chunks of queries. Taking a few queries at a time avoids holding all n x m pairwise values at once."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from nl_jax.ops.devices import known, platform
from nl_jax.ops.precision import wide

# Pairwise values of one clip in one chunk. They fit a CPU's last-level cache and keep the products of a TPU large.
MAX_PAIRS = 2**20
# A GPU starts every kernel of a loop anew, so its chunks are larger: 64 MiB of float32 scores a clip.
MAX_PAIRS_ON_GPUS = 2**24
MIN_CHUNK = 128
CHUNK_MULTIPLE = 16  # rows of a bfloat16 tile on a TPU


def einsum_wide(subscripts, a, b):
    """Computes `jnp.einsum(subscripts, a, b)` with sums in the type that `precision.wide` gives for a."""
    return jnp.einsum(subscripts, a, b, preferred_element_type=wide(a))


def split_queries(x: Float[Array, "b n d"], m: Any) -> Float[Array, "k b q d"]:
    """Splits the n queries x into k chunks of q queries. Zeros fill the last chunk and add nothing to a gradient.

    The size of a chunk depends on n and on the number of keys m, and not on b: b may be the batch of a whole pod, and a
    device sees only a part of it. If n or m is a symbol, all queries are one chunk.
    """
    b, n, d = x.shape
    if not known(n, m):  # the number of chunks must be a known number
        return x[None]
    pairs = MAX_PAIRS_ON_GPUS if platform() == "gpu" else MAX_PAIRS
    chunks = -(-n // max(MIN_CHUNK, pairs // m))
    size = -(-n // chunks)
    size = -(-size // CHUNK_MULTIPLE) * CHUNK_MULTIPLE if chunks > 1 else size
    padded = jnp.pad(x, ((0, 0), (0, chunks * size - n), (0, 0)))
    return padded.reshape(b, chunks, size, d).swapaxes(0, 1)


def join_queries(x: Float[Array, "k b q d"], n: Any) -> Float[Array, "b n d"]:
    """Undoes `split_queries` and returns the first n positions, without the zeros."""
    return x.swapaxes(0, 1).reshape(x.shape[1], -1, x.shape[-1])[:, :n]
