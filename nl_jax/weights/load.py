"""Weights of other programs into a network of ours: read, rename, compare, fill; nothing is left unexplained."""

from pathlib import Path

import numpy as np
from flax import nnx

from nl_jax.errors import InputError
from nl_jax.models import VideoResNet, flat
from nl_jax.models.flat import FlatParams
from nl_jax.models.geometry import GEOMETRIES, resolve
from nl_jax.weights import caffe2, mmaction2, norms, slowfast, torchvision
from nl_jax.weights.differences import differences, nonlocal_positions
from nl_jax.weights.inflate import Report, inflate
from nl_jax.weights.read import arrays_of
from nl_jax.weights.table import Source

SOURCES = {
    "caffe2": caffe2.SOURCE,
    "slowfast": slowfast.SOURCE,
    "mmaction2": mmaction2.SOURCE,
    "torchvision": torchvision.SOURCE,
}
# Ours that are a matrix (in, out), where the file may have a 1x1x1 convolution.
MATRICES = ("theta", "phi", "g", "w_z", "w_f", "fc")


def load(
    model: VideoResNet, path: str | Path, source: str, *, check_geometry: bool = True, inflate_2d: bool = False
) -> Report:
    """Fills `model` with the weights of a file, or leaves it as it was and raises.

    Args:
      model: of the same layers as the network in the file. Non-local blocks that only the model has, and the
        classifier where the classes are not as many, stay as they are: the report says so.
      path: of the file. It is read as data; nothing in it is executed.
      source: whose names and layout: caffe2 (`.pkl`), slowfast (`.pyth`), mmaction2 (`.pth`) or torchvision (`.pth` or
        `.safetensors`, also of timm).
      check_geometry: whether the model must have the geometry that these weights were trained with.
      inflate_2d: whether kernels of one plane are inflated in time, each plane a t-th; torchvision's always are.

    Returns:
      What was loaded, inflated and left, and which entries of the file are no weights.

    Raises:
      InputError: for a file that cannot be read or is refused as unsafe; a name that the table of the source does not
        have; an array of the model that the file does not have; shapes that differ; another geometry.
    """
    if source not in SOURCES:
        raise InputError(f"source={source!r} is unknown; choose one of {', '.join(SOURCES)}")
    path, table = Path(path), SOURCES[source]
    may_inflate = inflate_2d or table.images
    found, unused, is_2d = _rename(path, source, arrays_of(path, table.read))
    if check_geometry:
        _check_geometry(path, source, model, is_2d)

    _, params, batch_stats = flat.split(model)
    wanted = params | batch_stats
    found, norm_report = _convert_norms(found, set(wanted), table)
    problems = differences(_shapes(found), _shapes(wanted), may_inflate)
    if problem := next(problems, None):
        two_d = "its kernels are 2-D: " if is_2d and not may_inflate else ""
        raise InputError(f"{path}: {two_d}{problem}")
    if any(found[name].shape != wanted[name].shape for name in found if name.startswith("classifier/")):
        found = {name: value for name, value in found.items() if not name.startswith("classifier/")}
    _check_complete(path, found, wanted)

    new_params, report = inflate(params, {name: value for name, value in found.items() if name in params})
    new_stats, statistics = inflate(batch_stats, {name: value for name, value in found.items() if name in batch_stats})
    report.loaded += statistics.loaded
    report.left_at_init += statistics.left_at_init
    report.unused, report.norms = unused, norm_report
    new = new_params | new_stats
    for place, variable in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))):
        variable.set_value(new["/".join(map(str, place))])
    return report


def _rename(path: Path, source: str, arrays: dict[str, np.ndarray]) -> tuple[FlatParams, list[str], bool]:
    """The arrays under our names and in our layout, the names ignored, and whether the convolutions are 2-D."""
    table = SOURCES[source]
    to_ours = table.to_ours()
    names = {name: to_ours(name) for name in arrays if not table.is_ignored(name)}
    unknown = [name for name, ours in names.items() if ours is None]
    if unknown:
        others = [other for other in SOURCES if other != source and any(map(SOURCES[other].to_ours(), unknown))]
        hint = f"; source={others[0]!r} knows some of them" if others else ""
        raise InputError(
            f"{path}: {len(unknown)} of {len(names)} names are unknown to source={source!r}: {_first(unknown)}{hint}"
        )
    result = {}
    for theirs, ours in names.items():
        if ours in result:
            raise InputError(f"{path} has {ours} twice, the second time as {theirs}")
        result[ours] = _layout(ours, arrays[theirs])
    is_2d = any(arrays[name].ndim == 4 for name, ours in names.items() if ours.split("/")[-2] not in MATRICES)
    return result, [name for name in arrays if name not in names], is_2d


def _layout(name: str, array: np.ndarray) -> np.ndarray:
    """(o, i, *k) to (*k, i, o); a 2-D kernel gets one plane of time, a 1x1x1 one becomes a matrix where ours is."""
    array = array.astype(np.result_type(array.dtype, np.float32))
    part, kind = name.split("/")[-2:]
    if kind != "kernel" or array.ndim < 2:
        return array
    array = np.moveaxis(array, (0, 1), (-1, -2))
    if part in MATRICES:
        return array.reshape(array.shape[-2:]) if set(array.shape[:-2]) <= {1} else array
    return array[None] if array.ndim == 4 else array


def _convert_norms(found: FlatParams, wanted: set[str], table: Source) -> tuple[FlatParams, str]:
    if table.affine and not any(name.endswith("/mean") for name in found):
        found, count = norms.unfold(found, wanted)
        return found, f"{count} affine layers became batch norm of mean 0 and variance 1 - 1e-5" if count else ""
    found, count = norms.fold(found, wanted, table.epsilon)
    return found, norms.folded(count)


def _check_geometry(path: Path, source: str, model: VideoResNet, is_2d: bool) -> None:
    valid = SOURCES[source].geometries_2d if is_2d else SOURCES[source].geometries
    geometry = model.config.geometry
    if is_2d and model.config.inflate:
        return  # whether that may be is another question, and the first to answer
    if valid and resolve(geometry) not in [GEOMETRIES[name] for name in valid]:
        raise InputError(
            f"{path}: weights of source={source!r}{' with 2-D kernels' if is_2d else ''} belong to geometry "
            f"{' or '.join(valid)}, and the model has {geometry}; set geometry={valid[0]!r} "
            "(check_geometry=False loads them all the same, at a loss of accuracy)"
        )


def _check_complete(path: Path, found: FlatParams, wanted: FlatParams) -> None:
    if surplus := sorted(found.keys() - wanted.keys()):
        raise InputError(f"{path}: {_first(surplus)} in the file has no place in the model")
    blocks = {f"{stage}/{at}" for stage, ats in nonlocal_positions(_shapes(found)).items() for at in ats}
    new_head = not any(name.startswith("classifier/") for name in found)

    def may_be_new(name):
        place, is_nonlocal, _ = name.partition("/nonlocal_block/")
        return (new_head and name.startswith("classifier/")) or (is_nonlocal and place not in blocks)

    missing = [name for name in sorted(wanted.keys() - found.keys()) if not may_be_new(name)]
    if missing:
        raise InputError(f"{path}: the model has {_first(missing)}, and the file has not")


def _shapes(arrays: FlatParams) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in arrays.items()}


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
