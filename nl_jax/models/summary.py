"""What a network is made of, computed from the network itself without allocating it."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from nl_jax.models import flat
from nl_jax.models.resnet import ResNetConfig, VideoResNet


def count_parameters(params: flat.FlatParams) -> int:
    return sum(math.prod(array.shape) for array in params.values())


def summary(config: ResNetConfig, video_shape: tuple[int, int, int]) -> str:
    """Parameters and the list of inserted non-local blocks, each with its positions n and m.

    Args:
      video_shape: (t, h, w) of one clip.
    """
    model = nnx.eval_shape(lambda: VideoResNet(config, rngs=nnx.Rngs(0)))
    graphdef, params, batch_stats = flat.split(model)

    def intermediates(params, batch_stats, video):
        model = flat.merge(graphdef, params, batch_stats)
        model.eval()
        return model(video)[1]

    video = jax.ShapeDtypeStruct((1, *video_shape, 3), jnp.float32)
    out = jax.eval_shape(intermediates, params, batch_stats, video)
    kind = "C2D" if config.inflate is None else f"I3D {config.inflate}"
    stages = ", ".join(f"{stage} x{count}" for stage, count in config.stages().items())
    t, h, w = video_shape
    lines = [
        f"{kind} ({stages}), width {config.width}, geometry {config.geometry}, clips of {t} x {h} x {w}: "
        f"{count_parameters(params) / 1e6:.2f}M parameters"
    ]
    blocks = model.nonlocal_blocks()
    for name, block in blocks.items():
        _, *axes, channels = out[name].shape
        keys = block.key_shape(out[name].shape)
        lines.append(
            f"non-local block {name}: {block.pairwise}, {block.axes}, "
            f"{' x '.join(map(str, axes))} positions of {channels} channels, each over {math.prod(keys)}"
        )
    if not blocks:
        lines.append("non-local blocks: none")
    return "\n".join(lines)
