"""Files of any network under its own names, as safetensors: a JSON header, then the numbers."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from flax import nnx

from nl_jax.errors import InputError
from nl_jax.models import flat
from nl_jax.weights.identify import kind
from nl_jax.weights.write import whole

_TYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32"}


def save_own(model: nnx.Module, path: str | Path, classes: tuple[str, ...] = ()) -> None:
    """Writes parameters and running statistics with the names and layout of `nl_jax.models.flat.split`.

    The metadata of the header hold the class names and the configuration of the network, as JSON.

    Args:
      model: the network.
      path: path of the file.
      classes: class names by label.
    """
    _, params, batch_stats = flat.split(model)
    arrays = {name: np.asarray(value) for name, value in sorted((params | batch_stats).items())}
    metadata = {"format": "nl_jax", "classes": json.dumps(classes, ensure_ascii=False)}
    if dataclasses.is_dataclass(config := getattr(model, "config", None)):
        metadata["config"] = json.dumps(dataclasses.asdict(config), default=str)
    header, end = {"__metadata__": metadata}, 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": _TYPES[array.dtype.name], "shape": array.shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # numbers begin at a multiple of eight bytes
    with whole(path) as part, part.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(array.tobytes())


def is_own(names: Iterable[str]) -> bool:
    """Returns whether the names of a file's arrays are those of `nl_jax.models.flat`."""
    return not {"conv1/kernel", "backbone/conv1/kernel"}.isdisjoint(names)


def classes_of(path: str | Path) -> tuple[str, ...]:
    """Returns the class names in the header of a file of `save_own`. There are none in any other file."""
    return tuple(json.loads(_metadata(Path(path)).get("classes", "[]")))


def check_config(path: Path, model: nnx.Module) -> None:
    """Checks the fields of a network that the shapes of its arrays do not show.

    Raises:
      InputError: the network of the file has another geometry, or blocks with other options.
    """
    theirs = json.loads(_metadata(path).get("config", "{}"))
    ours = json.loads(json.dumps(dataclasses.asdict(model.config), default=str))
    names = ["geometry"] + ["nonlocal_options"] * any(theirs.get("nonlocal_blocks", {}).values())
    for name in names:
        if theirs.get(name, ours.get(name)) != ours.get(name):
            raise InputError(
                f"{path}: the network in the file has {name}={theirs[name]!r}, and the model {name}={ours[name]!r}; "
                f"set {name}={theirs[name]!r} (check_geometry=False loads it anyway, at a loss of accuracy)"
            )


def _metadata(path: Path) -> dict[str, str]:
    """Returns the metadata in the header of a file of `save_own`. There are none in any other file."""
    if not path.is_file() or kind(path) != "safetensors":
        return {}
    with path.open("rb") as file:
        metadata = json.loads(file.read(int.from_bytes(file.read(8), "little"))).get("__metadata__", {})
    return metadata if metadata.get("format") == "nl_jax" else {}
