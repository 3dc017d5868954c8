"""A network with its weights as one StableHLO program a platform, which needs JAX alone, or what reads StableHLO."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export
from ml_collections import ConfigDict

from nl_jax.errors import InputError, require
from nl_jax.models import MaskRCNN, VideoResNet
from nl_jax.ops import devices
from nl_jax.places import make_directory
from nl_jax.training import workdir
from nl_jax.training.normalize import make_normalize

# Platforms by JAX's names for an export, and the names that operations know them by.
PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "tpu": "tpu"}


def export_network(model: VideoResNet | MaskRCNN, config: ConfigDict, platform: str = "cpu") -> export.Exported:
    """The program (video uint8 (b,t,h,w,3)) -> logits (b,k) float32, for any b, with normalisation and weights inside.

    Frames and pixels are those of testing: `config.data.frames`, and a crop of `config.data.test_crop`. Operations have
    the forms that they have on that platform, whatever this machine has, but for kernels made for one batch size.

    Raises:
      InputError: for a platform that does not exist, or a network whose inputs are not crops of videos.
    """
    if platform not in PLATFORMS:
        raise InputError(f"platform={platform!r} is unknown; choose one of {', '.join(PLATFORMS)}")
    if not isinstance(model, VideoResNet):
        raise InputError("a detector has a program for every size of its images; only networks of videos are exported")
    model.eval()
    normalize = make_normalize(config.input)
    (batch,) = export.symbolic_shape("b")
    clip = clip_shape(config)

    def logits(video):
        return model(normalize(video))[0]

    with devices.compiling_for(PLATFORMS[platform]):
        return export.export(jax.jit(logits), platforms=[platform])(jax.ShapeDtypeStruct((batch, *clip), jnp.uint8))


def write_programs(
    model: VideoResNet | MaskRCNN, config: ConfigDict, classes: tuple[str, ...], platforms: Sequence[str], out: Path
) -> list[Path]:
    """Writes PLATFORM.jax_export, which `jax.export.deserialize` reads, and PLATFORM.stablehlo, portable bytecode.

    OUT/export.json has the shapes and the classes. See `export_network`.

    Returns:
      The files.

    Raises:
      MissingExtra: where flatbuffers, which JAX writes programs with, is not installed.
    """
    require("export", "flatbuffers")
    shapes = {"video": ["b", *clip_shape(config)], "logits": ["b", len(classes)]}
    make_directory(out)
    written = []
    for platform in platforms:
        exported = export_network(model, config, platform)
        for ending, content in (("jax_export", exported.serialize()), ("stablehlo", exported.mlir_module_serialized)):
            written.append(out / f"{platform}.{ending}")
            written[-1].write_bytes(content)
    workdir.write_json(out / "export.json", {"input": "uint8", "shapes": shapes, "classes": classes})
    return written


def clip_shape(config: ConfigDict) -> tuple[int, int, int, int]:
    """(t,h,w,3) of a view in testing. Raises InputError where views differ in size."""
    data = config.data
    if data.name == "long_range":
        return (data.frames, data.side, data.side, 3)
    if data.name != "video_folder" or not data.test_crop:
        raise InputError(
            f"data.name={data.name!r} with test_crop={data.get('test_crop')}: views have no size of their own; give "
            "--size, the side of a crop"
        )
    return (data.frames, data.test_crop, data.test_crop, 3)
