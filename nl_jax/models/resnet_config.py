"""The configuration of a ResNet with non-local blocks: a frozen dataclass that checks itself."""

import dataclasses
import inspect
import numbers
from collections.abc import Mapping

import jax

from nl_jax.errors import InputError
from nl_jax.models.arguments import check_choice, check_count, check_number
from nl_jax.models.geometry import Geometry, resolve
from nl_jax.models.nonlocal_block import NonLocalBlock
from nl_jax.models.norm import KINDS
from nl_jax.models.variants import VARIANTS

BLOCKS_PER_STAGE = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
INFLATE = (None, "3x1x1", "3x3x3")
# The network gives these arguments of NonLocalBlock. All others are options.
_GIVEN = ("self", "channels", "dtype", "rngs")
NONLOCAL_OPTIONS = (
    *(name for name in inspect.signature(NonLocalBlock.__init__).parameters if name not in _GIVEN),
    "variant",
)


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """The configuration of one network.

    Attributes:
      depth: 50, 101 or 152. It sets the number of residual blocks of res2 to res5.
      blocks_per_stage: the numbers of residual blocks, for one stage (res2) or more. It overrides depth.
      width: channels of conv1; 64 in the paper.
      groups: groups of every 3x3 convolution. 32 with width_per_group=8 is ResNeXt 32x8d (Xie et al. 2017).
      width_per_group: channels of one group in res2, for width 64.
      stride_on_1x1: whether the first 1x1 convolution of a stage takes its stride, as in the first ResNets. Otherwise
        the 3x3 convolution takes it.
      inflate: the kernel that reaches over three frames, in every second residual block: "3x1x1" or "3x3x3" (I3D), or
        None (C2D).
      geometry: a name in `GEOMETRIES` or a Geometry.
      num_classes: number of classes, k. None makes a network without classifier. It has `VideoResNet.features` only.
      nonlocal_blocks: for each stage, the residual blocks (counted from 0) that a non-local block follows.
      nonlocal_options: keywords of NonLocalBlock, which override the options of the geometry. The name of a stage maps
        to a dict of keywords for the blocks of this stage alone. `variant` names a block of another paper (see
        `nl_jax.models.variants`). A variant takes only the options norm, init, scale, inner_channels and group_size,
        and no norm if it has none. A scale has no effect on a variant without scores.
      norm: kind of every norm, see `Norm`.
      norm_epsilon: number that is added to the variances of the backbone; 0 for the COCO weights of torchvision.
      group_size: clips per group of batch norm.
      dropout: probability that a value before fc is set to zero.
      head_window: see `Classifier`. 7 tests larger crops as the released code does.
      dtype: type of the computation, "float32" or "bfloat16". "float64" serves to check the other types and needs
        JAX_ENABLE_X64=1.
      remat: stages that save memory in training. Their blocks keep only their input for the backward pass, and compute
        the rest again.
      freeze_at: number of stages without gradient, counted from the first of conv1, res2, res3, ..
    """

    depth: int = 50
    blocks_per_stage: tuple[int, ...] | None = None
    width: int = 64
    groups: int = 1
    width_per_group: int = 64
    stride_on_1x1: bool = False
    inflate: str | None = None
    geometry: str | Geometry = "paper"
    num_classes: int | None = 400
    nonlocal_blocks: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    nonlocal_options: Mapping[str, object] = dataclasses.field(default_factory=dict)
    norm: str = "batch"
    norm_epsilon: float = 1e-5
    group_size: int = 8
    dropout: float = 0.5
    head_window: int | None = None
    dtype: str = "float32"
    remat: tuple[str, ...] = ()
    freeze_at: int = 0

    def __hash__(self) -> int:
        # Mappings have no hash. Without this method a network's graphdef could not be a static argument of jit.
        return hash((self.depth, self.width, self.inflate, self.geometry, self.num_classes))

    def stages(self) -> dict[str, int]:
        """Returns the number of residual blocks by stage: {"res2": 3, ...}.

        Raises:
          InputError: for an unknown depth.
        """
        if self.blocks_per_stage is None and self.depth not in BLOCKS_PER_STAGE:
            raise InputError(f"depth={self.depth} is unknown; choose one of {', '.join(map(str, BLOCKS_PER_STAGE))}")
        blocks = self.blocks_per_stage or BLOCKS_PER_STAGE[self.depth]
        return {f"res{i}": count for i, count in enumerate(blocks, start=2)}

    def inner_width(self, stage: int) -> int:
        """Returns the channels of the 3x3 convolutions of a stage. Stages are counted from 0 (res2)."""
        return self.width * 2**stage * self.width_per_group // 64 * self.groups

    def frozen_stages(self) -> tuple[str, ...]:
        """Returns the stages that get no gradient: conv1, res2, .."""
        return ("conv1", *self.stages())[: self.freeze_at]

    def has_running_statistics(self) -> bool:
        """Returns whether any norm takes its statistics from the training batches."""
        return not self.norms().isdisjoint(("batch", "global"))

    def norms(self) -> set[str]:
        """Returns the kinds of norm in the network."""
        return {self.norm, *(options["norm"] for options in self._all_options() if "norm" in options)}

    def frames(self, frames: int) -> dict[str, int]:
        """Returns the number of frames after each layer that changes it, and the number of time groups of each stage.

        `frames` is the number of frames of a clip. Keys are names such as "clip", "pool1" and "groups of 8 in res3".

        Raises:
          InputError: `geometry` is unknown.
        """
        counts = {"clip": frames} | resolve(self.geometry).frames(frames)
        for stage, positions in self.nonlocal_blocks.items():
            options = self.nonlocal_options | self.nonlocal_options.get(stage, {})
            if positions and (group := options.get("time_group")):
                at = counts["pool1"] if stage == "res2" else counts["pool2"]
                counts[f"groups of {group} in {stage}"] = at // group
        return counts

    def _all_options(self) -> list[Mapping[str, object]]:
        """Returns the options of all blocks, and then the options of single stages."""
        stages = self.stages()
        return [self.nonlocal_options, *(given for name, given in self.nonlocal_options.items() if name in stages)]

    def check(self) -> None:
        """Raises InputError for a choice that does not exist, or for a non-local block that would not be inserted."""
        for name in ("width", "groups", "width_per_group", "group_size"):
            check_count(name, getattr(self, name))
        for name in ("num_classes", "head_window"):
            check_count(name, getattr(self, name), or_none=True)
        check_number("norm_epsilon", self.norm_epsilon)
        check_number("dropout", self.dropout)
        if self.norm_epsilon < 0:
            raise InputError(f"norm_epsilon={self.norm_epsilon} is out of range; choose 0 or more")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout={self.dropout} is out of range; choose 0 up to, not including, 1")
        check_choice("norm", self.norm, KINDS)
        blocks = self.blocks_per_stage
        if blocks is not None and not (blocks and all(isinstance(n, numbers.Integral) and n >= 1 for n in blocks)):
            raise InputError(f"blocks_per_stage={blocks} is out of range; choose 1 or more a stage")
        check_choice("inflate", self.inflate, INFLATE)
        if self.dtype not in ("float32", "bfloat16", "float64"):
            raise InputError(f"dtype={self.dtype!r} is unknown; choose float32 or bfloat16")
        if self.dtype == "float64" and not jax.config.jax_enable_x64:
            raise InputError("dtype='float64' needs JAX_ENABLE_X64=1")
        stages = self.stages()
        if not 0 <= self.freeze_at <= 1 + len(stages):
            raise InputError(f"freeze_at={self.freeze_at} is out of range; choose 0 to {1 + len(stages)}")
        if not self.inner_width(0):
            raise InputError(
                f"width={self.width} with groups={self.groups} and width_per_group={self.width_per_group} leaves no "
                "channels for a 3x3 convolution"
            )
        if unknown := set(self.remat) - set(stages):
            raise InputError(f"remat names {', '.join(sorted(unknown))}, but the stages are {', '.join(stages)}")
        for stage, positions in self.nonlocal_blocks.items():
            if stage not in stages:
                raise InputError(f"nonlocal_blocks names {stage!r}, but the stages are {', '.join(stages)}")
            if len(set(positions)) < len(positions):
                raise InputError(f"nonlocal_blocks.{stage}={positions} names a residual block twice; name it once")
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
        for stage in stages:
            options = {name: value for name, value in self.nonlocal_options.items() if name not in stages}
            options |= self.nonlocal_options.get(stage, {})
            if (variant := options.pop("variant", None)) is None:
                continue
            check_choice("variant", variant, VARIANTS)
            # A table gives one scale to all its rows, with scores or without.
            taken = {"norm", "init", "scale", "inner_channels", "group_size"} - (VARIANTS[variant].without - {"scale"})
            if other := options.keys() - taken:
                raise InputError(f"the variant {variant} takes no {', '.join(sorted(other))}")
        if unknown := set().union(*self._all_options()) - {*NONLOCAL_OPTIONS, *stages}:
            raise InputError(
                f"nonlocal_options names {', '.join(sorted(unknown))}; valid are {', '.join(NONLOCAL_OPTIONS)}"
            )
