"""Steps that all imports share. They translate names, list shapes and fill a model."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from flax import nnx

from nl_jax.errors import InputError
from nl_jax.models.flat import FlatParams
from nl_jax.weights.table import Source


def rename(
    path: Path, source: str, arrays: Mapping[str, np.ndarray], sources: Mapping[str, Source]
) -> tuple[dict[str, str], list[str]]:
    """Returns a dict from our names to the names in a file, and the names in the file that are known not to be weights.

    Args:
      path: path of the file, for messages.
      source: the program that wrote the file, a key of `sources`.
      arrays: arrays of the file by name.
      sources: the tables of all programs.

    Raises:
      InputError: for a name that the table of `source` does not have, or two names that mean the same.
    """
    table = sources[source]
    to_ours = table.to_ours()
    names = {name: to_ours(name) for name in arrays if not table.is_ignored(name)}
    unknown = [name for name, ours in names.items() if ours is None]
    if unknown:
        others = [other for other in sources if other != source and any(map(sources[other].to_ours(), unknown))]
        hint = f"; source={others[0]!r} knows some of them" if others else ""
        raise InputError(
            f"{path}: {len(unknown)} of {len(names)} names are unknown to source={source!r}: {first(unknown)}{hint}"
        )
    result = {}
    for theirs, ours in names.items():
        if ours in result:
            raise InputError(f"{path} has {ours} twice, the second time as {theirs}")
        result[ours] = theirs
    return result, [name for name in arrays if name not in names]


def source_of(path: Path, names: Iterable[str], *sources: Mapping[str, Source]) -> str:
    """Returns the source that knows most of the names of a file.

    Args:
      path: path of the file, for messages.
      names: names of the arrays of the file.
      sources: tables by the name of the program.

    Raises:
      InputError: if no source knows any of the names.
    """
    tables = [(source, table.to_ours()) for group in sources for source, table in group.items()]
    known = {}
    for source, to_ours in tables:
        known[source] = max(known.get(source, 0), sum(to_ours(name) is not None for name in names))
    best = max(known, key=known.get)
    if not known[best]:
        raise InputError(f"{path}: no source knows its names ({first(list(names))}); there are {', '.join(known)}")
    return best


def fill(model: nnx.Module, arrays: FlatParams) -> None:
    """Sets every array of `model` to the value under its name."""
    for place, variable in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))):
        variable.set_value(arrays["/".join(map(str, place))])


def shapes(arrays: FlatParams) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every array."""
    return {name: tuple(array.shape) for name, array in arrays.items()}


def first(names: list[str], count: int = 3) -> str:
    """Returns a text with the first `count` names and the number of the other names."""
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
