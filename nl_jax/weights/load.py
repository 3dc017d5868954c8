"""Import of other programs' weights in four steps: read, rename, compare, fill.

Every name in the file must be known, and every array of the model must get a value or appear in the report.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nl_jax.errors import InputError
from nl_jax.models import MaskRCNN, VideoResNet, flat
from nl_jax.models.flat import FlatParams
from nl_jax.models.geometry import GEOMETRIES, resolve
from nl_jax.weights import caffe2, detector, mmaction2, norms, own, pytorchvideo, slowfast, torchvision
from nl_jax.weights.differences import differences, nonlocal_positions
from nl_jax.weights.inflate import Report, inflate
from nl_jax.weights.read import arrays_of, torch_file
from nl_jax.weights.rename import fill, first, rename, shapes, source_of
from nl_jax.weights.table import Source

SOURCES = {
    "caffe2": caffe2.SOURCE,
    "slowfast": slowfast.SOURCE,
    "mmaction2": mmaction2.SOURCE,
    "pytorchvideo": pytorchvideo.SOURCE,
    "torchvision": torchvision.SOURCE,
}
# Our matrices (in, out). The file may have a 1x1x1 convolution in their place.
MATRICES = ("theta", "phi", "g", "w_z", "w_f", "fc")


def load(
    model: VideoResNet | MaskRCNN,
    path: str | Path,
    source: str | None = None,
    *,
    check_geometry: bool = True,
    inflate_2d: bool = False,
) -> Report:
    """Fills `model` with the weights of a file. If an error is raised, the model is unchanged.

    Args:
      model: a network with the same layers as the network in the file. Non-local blocks that only the model has keep
        their values. The classifier keeps its values if the number of classes differs. The report names both. A
        detector takes the file of a detector (see `detector.load`), or the file of an image network for its backbone.
      path: path of the file. It is read as data, and nothing in it is executed.
      source: the program that wrote the file: caffe2, slowfast, mmaction2, pytorchvideo or torchvision (also for timm),
        and for a detector also detectron2 and mmdetection. By default it is the source that knows the names in the
        file. A file of `save_own` needs no source.
      check_geometry: whether the model must have the geometry that these weights were trained with.
      inflate_2d: whether kernels of one plane are inflated in time, with planes="mean" (see `inflate`). Kernels of
        torchvision are always inflated.

    Returns:
      A report: the arrays that were loaded, inflated and left, and the entries of the file that are not weights.

    Raises:
      InputError: for a file that cannot be read or is refused as unsafe; a value that is not finite; a name that the
        table of the source does not have; an array of the model that the file does not have; shapes that differ;
        another geometry.
    """
    path = Path(path)
    tables = {**detector.SOURCES, **SOURCES} if isinstance(model, MaskRCNN) else SOURCES
    if source not in (None, *tables):
        raise InputError(f"source={source!r} is unknown; choose one of {', '.join(tables)}")
    arrays = arrays_of(path, tables[source].read if source else torch_file)
    if bad := [name for name, array in arrays.items() if array.dtype.kind not in "iub" and not _is_finite(array)]:
        raise InputError(f"{path}: {first(bad)} in the file hold values that are not finite (NaN or infinity)")
    if source is None and own.is_own(arrays):
        if check_geometry:
            own.check_config(path, model)
        return _take_over(model, path, arrays)
    if isinstance(model, MaskRCNN):
        return _load_detector(model, path, arrays, source)
    source = source or source_of(path, arrays, SOURCES)
    return _load_classifier(model, path, arrays, source, check_geometry, inflate_2d)


def _load_classifier(
    model: VideoResNet,
    path: Path,
    arrays: Mapping[str, np.ndarray],
    source: str,
    check_geometry: bool,
    inflate_2d: bool = False,
) -> Report:
    table = SOURCES[source]
    may_inflate = inflate_2d or table.images
    names, unused = rename(path, source, arrays, SOURCES)
    found = {ours: _layout(ours, arrays[theirs]) for ours, theirs in names.items()}
    is_2d = any(arrays[theirs].ndim == 4 for ours, theirs in names.items() if ours.split("/")[-2] not in MATRICES)
    if check_geometry:
        _check_geometry(path, source, model, is_2d)

    _, params, batch_stats = flat.split(model)
    found, norm_report = _convert_norms(found, {*params, *batch_stats}, table)
    report = _take_over(model, path, found, may_inflate, "its kernels are 2-D: " if is_2d and not may_inflate else "")
    report.unused, report.norms, report.source = unused, norm_report, source
    return report


def _is_finite(array: np.ndarray) -> bool:
    return bool(np.isfinite(array.astype(np.result_type(array.dtype, np.float32))).all())


def _take_over(
    model: VideoResNet | MaskRCNN, path: Path, found: FlatParams, may_inflate: bool = False, note: str = ""
) -> Report:
    """Fills the model with arrays that have our names and layout. `note` begins the message about a difference."""
    _, params, batch_stats = flat.split(model)
    wanted = params | batch_stats
    problems = differences(shapes(found), shapes(wanted), may_inflate)
    if problem := next(problems, None):
        raise InputError(f"{path}: {note}{problem}")
    theirs = [name for name in found if name.startswith("classifier/")]
    if any(name not in wanted or found[name].shape != wanted[name].shape for name in theirs):
        found = {name: value for name, value in found.items() if not name.startswith("classifier/")}
    _check_complete(path, found, wanted)

    new_params, report = inflate(params, {name: value for name, value in found.items() if name in params})
    new_stats, statistics = inflate(batch_stats, {name: value for name, value in found.items() if name in batch_stats})
    report.loaded += statistics.loaded
    report.left_at_init += statistics.left_at_init
    fill(model, new_params | new_stats)
    return report


def _load_detector(model: MaskRCNN, path: Path, arrays: Mapping[str, np.ndarray], source: str | None) -> Report:
    source = source or source_of(path, arrays, detector.SOURCES, SOURCES)
    if source not in SOURCES or (source in detector.SOURCES and detector.is_detector(arrays, source)):
        return detector.load(model, path, arrays, source)
    # Image networks have the same strides in every geometry, except for the pool of the Caffe2 release.
    report = _load_classifier(model.backbone, path, arrays, source, check_geometry=False)
    _, params, batch_stats = flat.split(model)
    report.loaded = [f"backbone/{name}" for name in report.loaded]
    report.left_at_init = [name for name in params | batch_stats if name not in report.loaded]
    return report


def _layout(name: str, array: np.ndarray) -> np.ndarray:
    """Converts (o,i,*k) to (*k,i,o).

    A 2-D kernel gets one plane in time. A 1x1x1 kernel becomes a matrix if our array is a matrix.
    """
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
        return  # `differences` tells later whether 2-D kernels fit an inflated model
    if valid and resolve(geometry) not in [GEOMETRIES[name] for name in valid]:
        raise InputError(
            f"{path}: weights of source={source!r}{' with 2-D kernels' if is_2d else ''} belong to geometry "
            f"{' or '.join(valid)}, and the model has {geometry}; set geometry={valid[0]!r} "
            "(check_geometry=False loads them anyway, at a loss of accuracy)"
        )


def _check_complete(path: Path, found: FlatParams, wanted: FlatParams) -> None:
    if surplus := sorted(found.keys() - wanted.keys()):
        raise InputError(f"{path}: {first(surplus)} in the file has no place in the model")
    blocks = {f"{stage}/{at}" for stage, ats in nonlocal_positions(shapes(found)).items() for at in ats}
    new_head = not any(name.startswith("classifier/") for name in found)

    def may_be_new(name):
        place, is_nonlocal, _ = name.partition("/nonlocal_block/")
        return (new_head and name.startswith("classifier/")) or (is_nonlocal and place not in blocks)

    missing = [name for name in sorted(wanted.keys() - found.keys()) if not may_be_new(name)]
    if missing:
        raise InputError(f"{path}: the model has {first(missing)}, and the file does not")
