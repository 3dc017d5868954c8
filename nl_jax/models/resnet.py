"""C2D and I3D ResNets with non-local blocks after any residual block (section 4, table 1)."""

import dataclasses
import inspect
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from nl_jax.errors import InputError
from nl_jax.models.classifier import Classifier
from nl_jax.models.geometry import Geometry, resolve
from nl_jax.models.nonlocal_block import NonLocalBlock
from nl_jax.models.norm import KINDS, Norm
from nl_jax.ops.conv import conv3d
from nl_jax.ops.relu import relu

BLOCKS_PER_STAGE = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
INFLATE = (None, "3x1x1", "3x3x3")
# Keywords of NonLocalBlock that are a choice; the network gives the others.
NONLOCAL_OPTIONS = tuple(
    name
    for name in inspect.signature(NonLocalBlock.__init__).parameters
    if name not in ("self", "channels", "dtype", "rngs")
)


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """One network.

    Attributes:
      depth: 50, 101 or 152; sets the number of residual blocks of res2 to res5.
      blocks_per_stage: the same given by hand, for one stage (res2) or more; overrides depth.
      width: channels of conv1; 64 in the paper.
      inflate: None (C2D), "3x1x1" or "3x3x3": which kernel of every second residual block reaches over time.
      geometry: a name in `GEOMETRIES` or a Geometry.
      num_classes: k.
      nonlocal_blocks: stage to the residual blocks, counted from 0, that a non-local block follows.
      nonlocal_options: keywords of NonLocalBlock, which override the geometry's; under the name of a stage, a dict of
        those for the blocks of that stage alone.
      norm: kind of every normalisation, see `Norm`.
      group_size: clips per group of batch norm.
      dropout: probability, before fc.
      head_window: see `Classifier`; 7 tests larger crops as the released code does.
      dtype: of the computation, "float32" or "bfloat16"; "float64" to check others, where JAX is told to have it.
      remat: stages whose blocks keep only their input for the backward pass and compute the rest again.
    """

    depth: int = 50
    blocks_per_stage: tuple[int, ...] | None = None
    width: int = 64
    inflate: str | None = None
    geometry: str | Geometry = "paper"
    num_classes: int = 400
    nonlocal_blocks: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    nonlocal_options: Mapping[str, object] = dataclasses.field(default_factory=dict)
    norm: str = "batch"
    group_size: int = 8
    dropout: float = 0.5
    head_window: int | None = None
    dtype: str = "float32"
    remat: tuple[str, ...] = ()

    def __hash__(self) -> int:
        # Mappings have no hash; without this a network's graphdef could not be a static argument of jit.
        return hash((self.depth, self.width, self.inflate, self.geometry, self.num_classes))

    def stages(self) -> dict[str, int]:
        """Stage name to number of residual blocks: {"res2": 3, ...}."""
        if self.blocks_per_stage is None and self.depth not in BLOCKS_PER_STAGE:
            raise InputError(f"depth={self.depth} is unknown; choose one of {', '.join(map(str, BLOCKS_PER_STAGE))}")
        blocks = self.blocks_per_stage or BLOCKS_PER_STAGE[self.depth]
        return {f"res{i}": count for i, count in enumerate(blocks, start=2)}

    def has_running_statistics(self) -> bool:
        """Whether any norm takes its statistics from the batches it sees in training."""
        return not self.norms().isdisjoint(("batch", "global"))

    def norms(self) -> set[str]:
        """The kinds of norm there are."""
        return {self.norm, *(options["norm"] for options in self._all_options() if "norm" in options)}

    def frames(self, frames: int) -> dict[str, int]:
        """The frames of a clip by the place that changes their number, and groups of them that blocks sum over."""
        counts = {"clip": frames} | resolve(self.geometry).frames(frames)
        for stage, positions in self.nonlocal_blocks.items():
            options = self.nonlocal_options | self.nonlocal_options.get(stage, {})
            if positions and (group := options.get("time_group")):
                at = counts["pool1"] if stage == "res2" else counts["pool2"]
                counts[f"groups of {group} in {stage}"] = at // group
        return counts

    def _all_options(self) -> list[Mapping[str, object]]:
        """The options of all blocks, and those of single stages."""
        stages = self.stages()
        return [self.nonlocal_options, *(given for name, given in self.nonlocal_options.items() if name in stages)]

    def check(self) -> None:
        """Raises InputError for a choice that does not exist, or a non-local block that would not be inserted."""
        for name in ("width", "group_size", "num_classes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} is out of range; choose 1 or more")
        if self.head_window is not None and self.head_window < 1:
            raise InputError(f"head_window={self.head_window} is out of range; choose 1 or more, or none")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout={self.dropout} is out of range; choose 0 up to, not including, 1")
        if self.norm not in KINDS:
            raise InputError(f"norm={self.norm!r} is unknown; choose one of {', '.join(KINDS)}")
        if self.blocks_per_stage is not None and (not self.blocks_per_stage or min(self.blocks_per_stage) < 1):
            raise InputError(f"blocks_per_stage={self.blocks_per_stage} is out of range; choose 1 or more a stage")
        if self.inflate not in INFLATE:
            raise InputError(f"inflate={self.inflate!r} is unknown; choose one of {', '.join(map(str, INFLATE))}")
        if self.dtype not in ("float32", "bfloat16", "float64"):
            raise InputError(f"dtype={self.dtype!r} is unknown; choose float32 or bfloat16")
        if self.dtype == "float64" and not jax.config.jax_enable_x64:
            raise InputError("dtype='float64' needs JAX_ENABLE_X64=1")
        stages = self.stages()
        if unknown := set(self.remat) - set(stages):
            raise InputError(f"remat names {', '.join(sorted(unknown))}, but the stages are {', '.join(stages)}")
        for stage, positions in self.nonlocal_blocks.items():
            if stage not in stages:
                raise InputError(f"nonlocal_blocks names {stage!r}, but the stages are {', '.join(stages)}")
            for position in positions:
                if not isinstance(position, int) or not 0 <= position < stages[stage]:
                    raise InputError(
                        f"nonlocal_blocks asks for a block after residual block {position!r} of {stage}, "
                        f"which has blocks 0 to {stages[stage] - 1}"
                    )
        if (self.nonlocal_options or self.nonlocal_blocks) and not any(self.nonlocal_blocks.values()):
            raise InputError("non-local blocks are asked for, but nonlocal_blocks names no residual block to follow")
        if idle := [name for name in self.nonlocal_options if name in stages and not self.nonlocal_blocks.get(name)]:
            raise InputError(f"nonlocal_options are given for {idle[0]}, which has no non-local block")
        if unknown := set().union(*self._all_options()) - {*NONLOCAL_OPTIONS, *stages}:
            raise InputError(
                f"nonlocal_options names {', '.join(sorted(unknown))}; valid are {', '.join(NONLOCAL_OPTIONS)}"
            )


def nonlocal_preset(depth: int, count: int) -> dict[str, tuple[int, ...]]:
    """The positions of 0, 1, 5 or 10 blocks in ResNet-50 or -101 (section 4.1, table 2c), for `nonlocal_blocks`.

    1 is before the last residual block of res4; 5 are two in res3 and three in res4, after every other block of
    ResNet-50; 10 are four in res3 and six in res4, after every block of ResNet-50. In res4 of ResNet-101 three lie as
    in the released code, after every seventh of 23 blocks, and six likewise after every third.
    """
    if depth not in (50, 101) or count not in (0, 1, 5, 10):
        raise InputError(f"there is no preset of {count} blocks for depth {depth}; choose 0, 1, 5 or 10 for 50 or 101")
    last = BLOCKS_PER_STAGE[depth][2] - 2
    every_other, every = {50: (range(1, 6, 2), range(6)), 101: (range(6, 21, 7), range(2, 18, 3))}[depth]
    return {
        0: {},
        1: {"res4": (last,)},
        5: {"res3": (1, 3), "res4": tuple(every_other)},
        10: {"res3": (0, 1, 2, 3), "res4": tuple(every)},
    }[count]


class Conv(nnx.Module):
    """A spacetime convolution without bias, kernel (kt,kh,kw,i,o), He et al. start, padded by half a kernel."""

    def __init__(self, features_in, features_out, kernel, strides=(1, 1, 1), *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), (*kernel, features_in, features_out)))
        self.strides = strides
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b t2 h2 w2 o"]:
        kernel = self.kernel[...].astype(self.dtype)
        return conv3d(x.astype(self.dtype), kernel, self.strides, tuple(k // 2 for k in kernel.shape[:3]))


class Bottleneck(nnx.Module):
    """relu(x + 1x1(3x3(1x1(x)))), the stride on the 3x3, with a projection where the shape changes."""

    def __init__(self, features_in, features, *, stride=1, inflate=None, nonlocal_block=None, norm, dtype, rngs):
        t1, t2 = {None: (1, 1), "3x1x1": (3, 1), "3x3x3": (1, 3)}[inflate]
        self.conv1 = Conv(features_in, features, (t1, 1, 1), dtype=dtype, rngs=rngs)
        self.norm1 = Norm(features, **norm)
        self.conv2 = Conv(features, features, (t2, 3, 3), (1, stride, stride), dtype=dtype, rngs=rngs)
        self.norm2 = Norm(features, **norm)
        self.conv3 = Conv(features, 4 * features, (1, 1, 1), dtype=dtype, rngs=rngs)
        self.norm3 = Norm(4 * features, **norm)
        if stride != 1 or features_in != 4 * features:
            self.shortcut = Conv(features_in, 4 * features, (1, 1, 1), (1, stride, stride), dtype=dtype, rngs=rngs)
            self.shortcut_norm = Norm(4 * features, **norm)
        else:
            self.shortcut = None
        self.nonlocal_block = nonlocal_block  # applied by VideoResNet, which names its output

    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b t h2 w2 o"]:
        y = self.norm1(self.conv1(x), rectified=True)
        y = self.norm2(self.conv2(y), rectified=True)
        y = self.norm3(self.conv3(y))
        if self.shortcut is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return relu(x + y)


class VideoResNet(nnx.Module):
    """conv1, pool1, res2, pool2, res3 to res5 and the classifier; video (b,t,h,w,3), normalised, to logits (b,k).

    A call returns the logits and a dict that names every intermediate: conv1, pool1, res2_0, .., pool2, res3_1_nonlocal
    (after the non-local block there), .., logits. `model.eval()` uses running statistics and no dropout.

    Raises:
      InputError: when the configuration asks for something that does not exist.
    """

    def __init__(self, config: ResNetConfig, *, rngs: nnx.Rngs):
        config.check()
        geometry = resolve(config.geometry)
        dtype = jnp.dtype(config.dtype)
        norm = {"kind": config.norm, "group_size": config.group_size}
        self.config = config
        self.pools = (geometry.pool1, geometry.pool2)

        width = config.width
        conv1_kernel = (5 if config.inflate else 1, geometry.conv1_kernel, geometry.conv1_kernel)
        self.conv1 = Conv(3, width, conv1_kernel, geometry.conv1_stride, dtype=dtype, rngs=rngs)
        self.norm1 = Norm(width, **norm)
        features = width
        for index, (stage, count) in enumerate(config.stages().items()):
            blocks = []
            for position in range(count):
                nonlocal_block = None
                if position in config.nonlocal_blocks.get(stage, ()):
                    options = _nonlocal_options(config, geometry, stage)
                    nonlocal_block = NonLocalBlock(4 * width * 2**index, **options, dtype=dtype, rngs=rngs)
                blocks.append(
                    Bottleneck(
                        features,
                        width * 2**index,
                        stride=2 if index and position == 0 else 1,
                        inflate=config.inflate if _is_inflated(stage, position) else None,
                        nonlocal_block=nonlocal_block,
                        norm=norm,
                        dtype=dtype,
                        rngs=rngs,
                    )
                )
                features = 4 * width * 2**index
            setattr(self, stage, nnx.List(blocks))
        self.classifier = Classifier(
            features, config.num_classes, dropout=config.dropout, window=config.head_window, rngs=rngs
        )

    def __call__(
        self, video: Float[Array, "b t h w 3"], dropout_key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "b k"], dict[str, Array]]:
        """The logits and the dict of intermediates. Training draws its dropout from `dropout_key`."""
        out = {}

        def apply(name, layer, *arguments):
            with jax.named_scope(name):  # the name in a profile, and in the summary
                out[name] = layer(*arguments)
            return out[name]

        pool1, pool2 = self.pools
        x = apply("conv1", lambda video: self.norm1(self.conv1(video), rectified=True), video)
        if pool1:
            x = apply("pool1", pool1, x)
        for stage in self.config.stages():
            run = nnx.remat(_run) if stage in self.config.remat else _run
            for position, block in enumerate(getattr(self, stage)):
                x = apply(f"{stage}_{position}", run, block, x)
                if block.nonlocal_block is not None:
                    x = apply(f"{stage}_{position}_nonlocal", run, block.nonlocal_block, x)
            if stage == "res2" and pool2:
                x = apply("pool2", pool2, x)
        return apply("logits", self.classifier, x, dropout_key), out

    def nonlocal_blocks(self) -> dict[str, NonLocalBlock]:
        """The inserted blocks by name, {"res3_1_nonlocal": NonLocalBlock, ..}, in the order they run."""
        return {
            f"{stage}_{position}_nonlocal": block.nonlocal_block
            for stage in self.config.stages()
            for position, block in enumerate(getattr(self, stage))
            if block.nonlocal_block is not None
        }


def _run(layer: nnx.Module, x: Array) -> Array:
    return layer(x)


def _is_inflated(stage: str, position: int) -> bool:
    """One inflated kernel for every two residual blocks: all of res2, 0, 2, 4, .. of res3 and res4, 1 of res5."""
    return stage == "res2" or position % 2 == (1 if stage == "res5" else 0)


def _nonlocal_options(config: ResNetConfig, geometry: Geometry, stage: str) -> dict[str, object]:
    defaults = {
        "subsample": geometry.subsample,
        "scale": geometry.scale,
        "out_bias": geometry.out_bias,
        "init": geometry.init,
        "norm": config.norm,
        "group_size": config.group_size,
    }
    stages = config.stages()
    asked = {name: value for name, value in config.nonlocal_options.items() if name not in stages}
    asked |= config.nonlocal_options.get(stage, {})
    if asked.get("axes") == "time":
        defaults["subsample"] = None  # no neighbours in space to pool
    return defaults | asked
