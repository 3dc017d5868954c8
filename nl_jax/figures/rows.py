"""Rows of the n x m matrix of weights f(x_i, x_j) / C(x) of a non-local block, laid out over the clip.

The functions compute only the rows that they return and never form the matrix. One letter per axis: t h w for the input
of the block, which holds the positions, and T H W for its keys. With subsampling there are fewer keys than positions. A
weight is 0 for a key that the block does not sum over: a key in another frame if axes="space", and a key at another
place if axes="time".
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from nl_jax.errors import InputError
from nl_jax.models import NonLocalBlock

QUERIES = 64  # rows at a time


def _check_map(block: NonLocalBlock) -> None:
    if not block.has_map:
        raise InputError(f"{block.pairwise} has no weight for a pair of positions, so there is nothing to draw")


def rows_of(
    block: NonLocalBlock,
    x: Float[jax.Array, "1 t h w c"],
    positions: Int[np.ndarray, "q 3"],
    valid: Bool[jax.Array, "1 t h w"] | None = None,
) -> Float[np.ndarray, "q T H W"]:
    """Returns the rows of the matrix for some positions.

    Args:
      block: the block.
      x: the input of the block.
      positions: (frame, row, column) of each position in x.
      valid: whether each position is a key. By default all positions are keys.

    Raises:
      InputError: for a variant without a weight for each pair of positions.
    """
    _check_map(block)
    t, h, w = x.shape[1:4]
    group, keys = block.time_group or t, block.key_shape(x.shape)
    frame, row, column = positions.T
    # The place of each position, and its element of the batch. Axes that are not summed over become the batch.
    at, element = {
        "spacetime": (((frame % group) * h + row) * w + column, frame // group),
        "space": (row * w + column, frame),
        "time": (frame, row * w + column),
    }[block.axes]
    asked, which = np.unique(at, return_inverse=True)
    split = nnx.split(block)
    found = np.concatenate([_rows(*split, x, chunk, valid) for chunk in _chunks(asked)], axis=1)
    found = found[element, which].reshape(len(positions), *keys)
    whole = np.zeros((len(positions), t, *((h, w) if block.axes == "time" else keys[-2:])), np.float32)
    each = np.arange(len(positions))
    if block.axes == "space":
        whole[each, frame] = found
    elif block.axes == "time":
        whole[each, :, row, column] = found
    else:
        whole[each[:, None], frame[:, None] // group * group + np.arange(group)] = found
    return whole


def mean_row(
    block: NonLocalBlock, x: Float[jax.Array, "1 t h w c"], valid: Bool[jax.Array, "1 t h w"] | None = None
) -> Float[np.ndarray, "T H W"]:
    """Returns the average of the rows of all positions. The function takes the same arguments as `rows_of`."""
    _check_map(block)
    count = int(np.prod([x.shape[a] for a in {"spacetime": (1, 2, 3), "space": (2, 3), "time": (1,)}[block.axes]]))
    count //= x.shape[1] // block.time_group if block.time_group else 1
    asked = np.arange(-(-count // QUERIES) * QUERIES).reshape(-1, QUERIES)  # chunks of one shape, so XLA compiles once
    graphdef, state = nnx.split(block)
    rows = (_sum_of_rows(graphdef, state, x, np.minimum(at, count - 1), at < count, valid) for at in asked)
    total = np.asarray(sum(rows), np.float32) / count
    t, h, w = x.shape[1:4]
    keys = block.key_shape(x.shape)
    if block.axes == "time":
        return np.moveaxis(total.reshape(h, w, t), -1, 0) / (h * w)
    if block.axes == "space":
        return total.reshape(t, *keys) / t
    return total.reshape(t, *keys[1:]) / (t // keys[0])


def _chunks(asked):
    """Returns chunks of one shape, so that XLA compiles once. The last chunk repeats its last position."""
    if len(asked) <= QUERIES:
        return [asked]
    whole = np.pad(asked, (0, -len(asked) % QUERIES), mode="edge")
    return whole.reshape(-1, QUERIES)


# The arrays of the block and the positions are arguments, so XLA compiles once for a block and a shape.
@partial(jax.jit, static_argnames="graphdef")
def _rows(graphdef, state, x, positions, valid=None):
    return nnx.merge(graphdef, state).attention_rows(x, positions, valid)


@partial(jax.jit, static_argnames="graphdef")
def _sum_of_rows(graphdef, state, x, positions, counted, valid=None):
    rows = nnx.merge(graphdef, state).attention_rows(x, positions, valid)
    return jnp.where(counted[None, :, None], rows, 0).sum(axis=1)
