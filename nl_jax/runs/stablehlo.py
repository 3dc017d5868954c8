"""Exports a network with its weights as one StableHLO program for each platform.

JAX, or any other reader of StableHLO, can run a program without nl_jax.
"""

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
from nl_jax.training.preprocessing import make_normalize

# Maps JAX's name of a platform to the name in `nl_jax.ops.devices`.
PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "tpu": "tpu"}


def export_network(model: VideoResNet | MaskRCNN, config: ConfigDict, platform: str = "cpu") -> export.Exported:
    """Returns a program from video uint8 (b,t,h,w,3) to logits float32 (b,k), for any b.

    The program holds the normalization and the weights. Its clips have the size of a test: `config.data.frames` frames,
    and a crop of `config.data.test_crop` pixels. Operations have the form for the platform, and not for this machine.
    The program does not use kernels that are made for one batch size.

    Args:
      model: the network.
      config: the config with which the network was trained.
      platform: a key of `PLATFORMS`.

    Raises:
      InputError: the platform is unknown, or the inputs of the network are not crops of videos.
    """
    if platform not in PLATFORMS:
        raise InputError(f"platform={platform!r} is unknown; choose one of {', '.join(PLATFORMS)}")
    if not isinstance(model, VideoResNet):
        raise InputError(
            "only networks of videos are exported; a detector needs a program for every size of its images"
        )
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
    """Writes the programs of `export_network` for several platforms, and the shapes and classes to OUT/export.json.

    Each platform has two files: PLATFORM.jax_export for `jax.export.deserialize`, and PLATFORM.stablehlo, which is
    portable bytecode.

    Args:
      model: the network.
      config: the config with which the network was trained.
      classes: class names by label.
      platforms: keys of `PLATFORMS`.
      out: the folder of the files.

    Returns:
      The paths of the programs.

    Raises:
      MissingExtra: flatbuffers is not installed, and JAX needs it to write programs.
      InputError: as in `export_network`.
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
    """Returns the shape (t,h,w,3) of a view in a test.

    Raises:
      InputError: views differ in size.
    """
    data = config.data
    if data.name == "long_range":
        return (data.frames, data.side, data.side, 3)
    if data.name != "video_folder" or not data.test_crop:
        raise InputError(
            f"data.name={data.name!r} with test_crop={data.get('test_crop')}: views have no fixed size; give --size, "
            "the side of a crop in pixels"
        )
    return (data.frames, data.test_crop, data.test_crop, 3)
