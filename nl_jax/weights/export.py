"""Export of our networks to PySlowFast files, so that a network trained here can be used elsewhere."""

from pathlib import Path

import numpy as np

from nl_jax.errors import InputError
from nl_jax.models import MaskRCNN, VideoResNet, flat
from nl_jax.models.geometry import GEOMETRIES, resolve
from nl_jax.weights import detector, norms, slowfast, write

INSTANTIATION = {"embedded_gaussian": "softmax", "dot_product": "dot_product"}


def save(model: VideoResNet | MaskRCNN, path: str | Path) -> str:
    """Writes a complete {"model_state": ..} with PySlowFast's names and layout.

    PySlowFast loads the file with strict=True. Affine norms become batch norms of mean 0 and variance 1 - 1e-5. Missing
    biases and norms of non-local blocks get neutral values: biases are 0 and scales are 1.

    Args:
      model: the network. A detector is written for torchvision, see `detector.save`.
      path: path of the file.

    Returns:
      The fields of a PySlowFast config that build this network, and the reasons if PySlowFast computes another result.

    Raises:
      InputError: for a network that PySlowFast cannot build, or if PyTorch is not installed.
    """
    if isinstance(model, MaskRCNN):
        return detector.save(model, path)
    _check(model)
    to_theirs = slowfast.SOURCE.to_theirs()
    arrays = {to_theirs(name): _layout(name, array) for name, array in _complete(model).items()}
    write.torch_state(path, arrays, counters=True, wrapper="model_state")
    return _config(model)


def _check(model: VideoResNet) -> None:
    config, reasons = model.config, []
    if _depth(model) is None:
        reasons.append(f"it has the residual blocks {config.stages()}, and PySlowFast has the blocks of R50 and R101")
    if config.inflate == "3x3x3":
        reasons.append("inflate='3x3x3'")
    if resolve(config.geometry).conv1_kernel != 7:
        reasons.append(f"geometry={config.geometry!r} has another conv1")
    blocks = model.nonlocal_blocks()
    if len(functions := {block.pairwise for block in blocks.values()}) > 1:
        reasons.append(f"its blocks have several functions, {', '.join(sorted(functions))}")
    for name, block in blocks.items():
        if block.pairwise not in INSTANTIATION:
            reasons.append(f"{name} is {block.pairwise}")
            continue
        if block.axes != "spacetime":
            reasons.append(f"{name} sums over {block.axes}")
        channels, inner = block.g.kernel.shape
        if inner != channels // 2:
            reasons.append(f"{name} has {inner} inner channels and not {channels // 2}")
    if reasons:
        raise InputError(
            f"PySlowFast cannot build this network: {'; '.join(reasons)}. A path that ends in .safetensors takes any "
            "network, by its own names (weights.save_own)"
        )


def _complete(model: VideoResNet) -> flat.FlatParams:
    """Returns every array that PySlowFast has, by our name."""
    _, params, batch_stats = flat.split(model)
    arrays = {name: np.asarray(value) for name, value in (params | batch_stats).items()}
    for name, block in model.nonlocal_blocks().items():
        name = name.removesuffix("_nonlocal").replace("_", "/") + "/nonlocal_block"
        for part in ("theta", "phi", "g", "w_z"):
            channels = arrays[f"{name}/{part}/kernel"].shape[-1]
            arrays.setdefault(f"{name}/{part}/bias", np.zeros(channels, np.float32))
        if block.norm is None:
            arrays[f"{name}/norm/scale"] = np.ones(channels, np.float32)
            arrays[f"{name}/norm/bias"] = np.zeros(channels, np.float32)
    means = {name.removesuffix("scale") + "mean" for name in arrays if name.endswith("/scale")}
    return norms.unfold(arrays, means)[0]


def _layout(name: str, array: np.ndarray) -> np.ndarray:
    """Converts (*k,i,o) to (o,i,*k). A matrix of a non-local block becomes a 1x1x1 convolution."""
    if not name.endswith("/kernel"):
        return array
    array = np.moveaxis(array, (-1, -2), (0, 1))
    return array[..., None, None, None] if "/nonlocal_block/" in name else array


def _config(model: VideoResNet) -> str:
    config, blocks = model.config, model.nonlocal_blocks()
    positions = [sorted(config.nonlocal_blocks.get(stage, ())) for stage in config.stages()]
    fields = {
        "MODEL.ARCH": "i3d" if config.inflate else "c2d",
        "MODEL.NUM_CLASSES": config.num_classes,
        "RESNET.DEPTH": _depth(model),
        "RESNET.WIDTH_PER_GROUP": config.width,
        "RESNET.NUM_BLOCK_TEMP_KERNEL": [[count] for count in config.stages().values()],
        "NONLOCAL.LOCATION": [[at] for at in positions],
    }
    if blocks:
        fields["NONLOCAL.INSTANTIATION"] = INSTANTIATION[next(iter(blocks.values())).pairwise]
    text = "PySlowFast builds this network from\n" + "\n".join(f"  {name} {value}" for name, value in fields.items())
    if resolve(config.geometry) != GEOMETRIES["slowfast"]:
        text += f"\nPySlowFast computes geometry slowfast; trained with {config.geometry}: expect other figures"
    for name, block in blocks.items():
        scaled = block.pairwise == "dot_product" or np.isclose(block.scale, block.g.kernel.shape[-1] ** -0.5)
        if block.subsample != "before" or not scaled:
            text += f"\n{name}: PySlowFast cannot compute subsample={block.subsample!r}, scale={block.scale:.3g}"
        if block.time_group:
            text += f"\n{name}: set NONLOCAL.GROUP of its stage to its number of frames / {block.time_group}"
    return text


def _depth(model: VideoResNet) -> int | None:
    counts = tuple(model.config.stages().values())
    return {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101}.get(counts)
