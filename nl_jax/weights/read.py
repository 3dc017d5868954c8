"""Readers that turn files of other programs into arrays by name. Nothing in a file is ever executed."""

import codecs
import json
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy._core.multiarray import _reconstruct, scalar
from numpy._core.numeric import _frombuffer

from nl_jax.errors import InputError
from nl_jax.weights import inert
from nl_jax.weights.identify import describe, kind

# The functions and classes that pickled NumPy arrays need, under the names of NumPy 1 and 2.
ADMITTED = {("_codecs", "encode"): codecs.encode, ("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
for _core in ("numpy.core", "numpy._core"):
    ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    ADMITTED[f"{_core}.multiarray", "scalar"] = scalar
    ADMITTED[f"{_core}.numeric", "_frombuffer"] = _frombuffer

REFUSED = "asks for {}, which arrays do not need: the file is refused, and nothing in it was run"

SAFETENSORS_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "BOOL": np.bool_,
} | {f"{letter}{8 * size}": np.dtype(f"{letter.lower()}{size}") for letter in "IU" for size in (1, 2, 4, 8)}
# Names of the entry of a checkpoint that holds the arrays, in order of preference.
WRAPPERS = ("model_state", "state_dict", "model")
# torch's DataParallel, torch.compile and Lightning modules put such a part before every name.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")


# The remedy for a file that holds a whole network of a class of its own.
STRIP = (
    "save the arrays alone, where that program is installed: "
    "content = torch.load(FILE, weights_only=False); torch.save(content.state_dict(), NEW_FILE)"
)


def arrays_of(path: Path, usual: Callable[[Path], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns the arrays of a file by name. The content of the file, and not its name, decides the reader.

    Args:
      path: path of the file.
      usual: the reader for a file of unknown kind.

    Raises:
      InputError: see `caffe2_pickle` and `torch_file`.
    """
    readers = {"torch": torch_file, "safetensors": torch_file, "pickle": caffe2_pickle}
    return readers.get(kind(path) if path.is_file() else "", usual)(path)


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that makes only NumPy arrays. A plain unpickler calls any function that a pickle names."""

    def find_class(self, module, name):
        if (module, name) not in ADMITTED:
            raise InputError(REFUSED.format(f"{module}.{name}"))
        return ADMITTED[module, name]


def caffe2_pickle(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a pickle {'blobs': {name: array}}, {'model': {name: array}} or {name: array}, by name.

    Raises:
      InputError: for a file that is absent, cut off or no pickle, or that asks for more than arrays.
    """
    with _open(path) as file:
        try:
            content = _ArrayUnpickler(file, encoding="latin1").load()
        except InputError as error:
            raise InputError(f"{path} {error}") from None
        except Exception as error:  # a broken pickle can raise anything
            why = _reason(error) if kind(path) == "pickle" else describe(path) or _reason(error)
            raise InputError(f"{path} is cut off or is no pickle: {why}") from error
    return _arrays(path, content, ("blobs", "model"))


def torch_file(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a torch checkpoint or of a safetensors file, by name.

    A checkpoint may hold more than arrays: flags, logs and configs of the training program. The function does not make
    these objects.

    Raises:
      InputError: for a file that is absent, cut off or of another format, for an object in place of an array, or if
        PyTorch is not installed.
    """
    if path.suffix == ".safetensors" or (path.is_file() and kind(path) == "safetensors"):
        return _safetensors(path)
    options = {"map_location": "cpu"}
    with _open(path) as file:
        try:
            import torch
        except ImportError as error:
            raise InputError(f"{path}: reading a torch file needs PyTorch: pip install torch") from error
        try:
            try:
                content = torch.load(file, weights_only=True, **options)
            except pickle.UnpicklingError:  # torch's own message advises the user to execute the file
                file.seek(0)
                pickle_module = inert.pickle_module(ADMITTED)
                content = torch.load(file, weights_only=False, pickle_module=pickle_module, **options)
        except Exception as error:  # a broken zip or pickle can raise anything
            raise InputError(f"{path} is cut off or is no torch file: {describe(path) or _reason(error)}") from error
    if isinstance(content, inert.Inert):
        raise InputError(f"{path} holds an object of {content.asked}, not arrays by name; {STRIP}")
    return _arrays(path, content, WRAPPERS)


def _arrays(path: Path, content, wrappers: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Returns the dict of arrays in `content`, which may be one entry of a larger dict."""
    while isinstance(content, Mapping) and (wrapper := _wrapper(path, content, wrappers)) is not None:
        content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{path} holds a {type(content).__name__}, not arrays by name")
    arrays = {str(name): _array(path, name, value) for name, value in content.items()}
    while prefix := next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in arrays)), None):
        arrays = {name.removeprefix(prefix): value for name, value in arrays.items()}
    return arrays


def _wrapper(path: Path, content: Mapping, wrappers: tuple[str, ...]) -> object | None:
    """Returns the name of the entry that holds the arrays, or None if `content` itself holds them."""
    for wrapper in wrappers:
        if isinstance(content.get(wrapper), Mapping):
            return wrapper
        if isinstance(content.get(wrapper), inert.Inert):
            raise InputError(f"{path}: {wrapper} {REFUSED.format(content[wrapper].asked)}")
    if any(map(_is_array, content.values())):
        return None
    found = [
        name for name, entry in content.items() if isinstance(entry, Mapping) and any(map(_is_array, entry.values()))
    ]
    if len(found) > 1:
        raise InputError(
            f"{path} holds arrays under several names, {', '.join(map(str, found))}: save one of them alone, "
            f"content = torch.load(FILE, weights_only=False); torch.save(content[{found[0]!r}], NEW_FILE)"
        )
    return found[0] if found else None


def _is_array(value) -> bool:
    return hasattr(value, "detach") or isinstance(value, np.ndarray)


def _array(path: Path, name, value) -> np.ndarray:
    if isinstance(value, inert.Inert):
        raise InputError(f"{path}: {name} {REFUSED.format(value.asked)}")
    if hasattr(value, "detach"):  # a tensor; NumPy has no bfloat16
        try:
            value = value.detach()
            value = (value.float() if value.is_floating_point() else value).numpy()
        except (TypeError, RuntimeError) as error:  # a tensor without values, or a quantized or sparse one
            raise InputError(f"{path}: {name} cannot be read as an array: {_reason(error)}") from error
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        found = f"has the type {array.dtype}" if _is_array(value) else f"is a {type(value).__name__}"
        raise InputError(f"{path}: {name} {found}, valid are real numbers")
    return array


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a safetensors file: a length, a JSON header {name: type, shape, place} and the numbers."""
    with _open(path) as file:
        data = file.read()
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        return {
            name: np.frombuffer(
                data,
                SAFETENSORS_TYPES[entry["dtype"]],
                math.prod(entry["shape"]),
                8 + length + entry["data_offsets"][0],
            ).reshape(entry["shape"])
            for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is cut off or is no safetensors file: {describe(path) or _reason(error)}") from error


def _open(path: Path):
    if path.is_dir():
        raise InputError(f"{path} is a folder, valid is a file of weights")
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    return path.open("rb")


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
