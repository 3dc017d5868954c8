"""Import of other programs' detectors, and export to torchvision."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from nl_jax.errors import InputError
from nl_jax.models import DetectorConfig, MaskRCNN, flat
from nl_jax.models.flat import FlatParams
from nl_jax.weights import detectron2, mmdetection, norms, torchvision_detection, write
from nl_jax.weights.differences import differences, nonlocal_positions
from nl_jax.weights.inflate import Report
from nl_jax.weights.rename import fill, first, rename, shapes
from nl_jax.weights.table import Source

SOURCES = {
    "torchvision": torchvision_detection.SOURCE,
    "detectron2": detectron2.SOURCE,
    "mmdetection": mmdetection.SOURCE,
}
# The layers whose size depends on the number of classes, and the layers whose size depends on the number of keypoints.
BY_CLASS = ("box_head/classes/", "box_head/deltas/", "mask_head/logits/")
BY_KEYPOINT = ("keypoint_head/deconv/",)
# The heads beside the box head.
HEADS = ("mask_head", "keypoint_head")


def is_detector(names: Iterable[str], source: str) -> bool:
    """Returns whether a file with these names holds a detector of `source`, and not an image network."""
    return any(map(SOURCES[source].to_ours(), names))


def load(model: MaskRCNN, path: Path, arrays: Mapping[str, np.ndarray], source: str) -> Report:
    """Fills `model` with the weights of a detector. If an error is raised, the model is unchanged.

    Three kinds of layers keep their values, and the report names them: non-local blocks that only the model has, the
    layers by class if the file has another number of classes, and the layers by keypoint if the file has another number
    of keypoints. A model without mask head or keypoint head does not use the weights of this head.

    Args:
      model: the detector.
      path: path of the file, for messages.
      arrays: the arrays of the file by name.
      source: the program that wrote the file, a key of `SOURCES`.

    Raises:
      InputError: see `nl_jax.weights.load`.
    """
    table = SOURCES[source]
    names, unused = rename(path, source, arrays, SOURCES)
    absent = tuple(f"{head}/" for head in HEADS if getattr(model, head) is None)
    unused += [theirs for ours, theirs in names.items() if ours.startswith(absent)]
    names = {ours: theirs for ours, theirs in names.items() if not ours.startswith(absent)}
    found = {ours: _to_ours(ours, arrays[theirs], model.config, table) for ours, theirs in names.items()}
    _, params, batch_stats = flat.split(model)
    wanted = params | batch_stats
    found, folded = norms.fold(found, set(wanted), model.backbone.config.norm_epsilon)
    new = ()
    for layers in (BY_CLASS, BY_KEYPOINT):
        if any(n.startswith(layers) and n in wanted and found[n].shape != wanted[n].shape for n in found):
            new += layers
    found = {name: value for name, value in found.items() if not name.startswith(new)}
    _check(path, found, wanted, new)
    fill(model, wanted | {name: jnp.asarray(value, wanted[name].dtype) for name, value in found.items()})
    left = [name for name in wanted if name not in found]
    return Report(loaded=list(found), left_at_init=left, unused=unused, norms=norms.folded(folded), source=source)


def save(model: MaskRCNN, path: str | Path) -> str:
    """Writes the state of a torchvision `MaskRCNN` or `KeypointRCNN` with the same layers.

    torchvision loads the file with strict=True.

    Args:
      model: the detector.
      path: path of the file.

    Returns:
      The arguments with which torchvision builds this network, and the options that torchvision cannot compute.

    Raises:
      InputError: for a network with non-local blocks, for a network without masks and keypoints, or if PyTorch is not
        installed.
    """
    if blocks := list(model.nonlocal_blocks()):
        raise InputError(f"torchvision has no non-local blocks, and this network has {', '.join(blocks)}")
    if model.mask_head is None and model.keypoint_head is None:
        raise InputError("masks=False: only a network with masks or with keypoints is written")
    _, params, batch_stats = flat.split(model)
    arrays = {name: np.asarray(value) for name, value in (params | batch_stats).items()}
    means = {name.removesuffix("scale") + "mean" for name in arrays if name.endswith("/scale")}
    arrays, _ = norms.unfold(arrays, means)
    to_theirs = torchvision_detection.SOURCE.to_theirs()
    arrays = {to_theirs(name): _to_torch(name, array, model.config) for name, array in arrays.items()}
    write.torch_state(path, arrays, counters=model.backbone.config.norm in ("batch", "global"))
    config, backbone = model.config, model.backbone.config
    program = "MaskRCNN with" if model.keypoint_head is None else f"KeypointRCNN with num_keypoints={config.keypoints},"
    text = (
        f"torchvision's {program} num_classes={config.num_classes + 1}, box_score_thresh={config.score_threshold}, "
        f"a ResNet of the blocks {tuple(backbone.stages().values())} with groups={backbone.groups} and "
        f"width_per_group={backbone.width_per_group}, and norms with eps={backbone.norm_epsilon}"
    )
    differs = {"stride_on_1x1": backbone.stride_on_1x1, "aligned": config.aligned}
    differs |= {"floor_strides": not config.floor_strides, "round_anchors": not config.round_anchors}
    if names := [f"{name}={getattr(config, name, True)}" for name, other in differs.items() if other]:
        text += f"\ntorchvision cannot compute {', '.join(names)}: expect other figures"
    return text


def _to_ours(name: str, array: np.ndarray, config: DetectorConfig, table: Source) -> np.ndarray:
    """Converts their layout of kernels to ours, (*k,i,o), and moves the background to the front of the classes."""
    array = array.astype(np.result_type(array.dtype, np.float32))
    layer, kind = name.rsplit("/", 1)
    if kind == "kernel":
        if layer.endswith("_head/deconv"):  # (i, o, *k)
            array = np.moveaxis(array, (0, 1), (-2, -1))
        elif array.ndim == 4:  # (o, i, *k)
            array = np.moveaxis(array, (0, 1), (-1, -2))
        elif layer == "box_head/fc1":  # the features of a box: theirs go channel by channel, ours place by place
            size = config.box_size
            if array.shape[1] % size**2:
                raise InputError(f"{name} takes {array.shape[1]} features, and box_size={size} has {size**2} places")
            array = array.reshape(len(array), -1, size, size).transpose(2, 3, 1, 0).reshape(-1, len(array))
        else:
            array = array.T
    if layer == "backbone/conv1" and table.bgr:
        array = array[..., ::-1, :]
    if name.startswith("backbone/") and kind == "kernel":
        array = array[None]
    if table.background_last and layer == "box_head/classes":
        array = np.roll(array, 1, axis=-1)
    if table.background_last and layer in ("box_head/deltas", "mask_head/logits"):
        new = 4 if layer == "box_head/deltas" else 1
        array = np.concatenate([np.zeros_like(array[..., :new]), array], axis=-1)
    return array


def _to_torch(name: str, array: np.ndarray, config: DetectorConfig) -> np.ndarray:
    """Undoes `_to_ours` for torchvision."""
    layer, kind = name.rsplit("/", 1)
    if kind != "kernel":
        return array
    if name.startswith("backbone/"):
        array = array[0]
    if layer.endswith("_head/deconv"):
        return np.moveaxis(array, (-2, -1), (0, 1))
    if layer == "box_head/fc1":
        size = config.box_size
        return array.reshape(size, size, -1, array.shape[-1]).transpose(3, 2, 0, 1).reshape(array.shape[-1], -1)
    return np.moveaxis(array, (-1, -2), (0, 1))


def _check(path: Path, found: FlatParams, wanted: FlatParams, new: tuple[str, ...]) -> None:
    in_file, in_model = ({k.removeprefix("backbone/"): v for k, v in shapes(a).items()} for a in (found, wanted))
    if problem := next(differences(in_file, in_model, may_inflate=False), None):
        raise InputError(f"{path}: {problem}")
    if surplus := sorted(found.keys() - wanted.keys()):
        raise InputError(f"{path}: {first(surplus)} in the file has no place in the model")
    blocks = {f"backbone/{stage}/{at}/" for stage, ats in nonlocal_positions(in_file).items() for at in ats}

    def may_be_new(name):
        place, is_nonlocal, _ = name.partition("nonlocal_block/")
        return (is_nonlocal and place not in blocks) or name.startswith((*new, "keypoint_head/nonlocal_blocks/"))

    if missing := [name for name in sorted(wanted.keys() - found.keys()) if not may_be_new(name)]:
        raise InputError(f"{path}: the model has {first(missing)}, and the file does not")
