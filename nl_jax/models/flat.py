"""A model as flat dicts of arrays with readable names, and back.

The name of an array, such as "res3/1/nonlocal_block/theta/kernel", is the same in a checkpoint, a table of weights, a
sharding rule and an error message.
"""

from typing import Any

import jax
from flax import nnx

# Maps a name to an array. For an abstract model it maps a name to a shape, and for a sharded model also to a sharding.
FlatParams = dict[str, Any]

# Flax 0.12.0, the version for JAX 0.7, has the older name.
_as_pure = nnx.as_pure if hasattr(nnx, "as_pure") else nnx.pure


def split(model: nnx.Module) -> tuple[nnx.GraphDef, FlatParams, FlatParams]:
    """Returns the structure of a model, its parameters and its batch norm statistics."""
    graphdef, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graphdef, _flatten(params), _flatten(batch_stats)


def merge(graphdef: nnx.GraphDef, params: FlatParams, batch_stats: FlatParams) -> nnx.Module:
    """Returns the model with this structure, these parameters and these batch norm statistics.

    The function is the inverse of `split`. Inside `jax.jit` it costs nothing at run time.
    """
    return nnx.merge(graphdef, _unflatten(params), _unflatten(batch_stats))


def abstract(build) -> tuple[nnx.GraphDef, FlatParams, FlatParams]:
    """Returns `split(build())` with shapes in place of arrays, and allocates no array.

    `build` is a function without arguments that returns the model.
    """
    return split(nnx.eval_shape(build))


def _flatten(state) -> FlatParams:
    leaves, _ = jax.tree_util.tree_flatten_with_path(_as_pure(state))
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def _unflatten(flat: FlatParams):
    paths = {tuple(int(key) if key.isdigit() else key for key in name.split("/")): leaf for name, leaf in flat.items()}
    return nnx.from_flat_state(list(paths.items()))
