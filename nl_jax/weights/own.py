"""Export of any network under its own names to safetensors: a JSON header, then the numbers."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from flax import nnx

from nl_jax.models import flat
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
