"""C2D and I3D ResNets with non-local blocks after any residual block (section 4, table 1)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from nl_jax.errors import InputError
from nl_jax.models.bottleneck import Bottleneck, Conv
from nl_jax.models.classifier import Classifier
from nl_jax.models.geometry import Geometry, resolve
from nl_jax.models.nonlocal_block import NonLocalBlock
from nl_jax.models.norm import Norm
from nl_jax.models.resnet_config import BLOCKS_PER_STAGE, ResNetConfig
from nl_jax.models.variants import VARIANTS
from nl_jax.ops.devices import Shape


def nonlocal_preset(depth: int, count: int) -> dict[str, tuple[int, ...]]:
    """Returns the positions of 0, 1, 5 or 10 blocks in ResNet-50 or -101 for `nonlocal_blocks` (section 5.1, table 2c).

    - 1: before the last residual block of res4.
    - 5: two in res3 and three in res4. In ResNet-50 they follow every other residual block.
    - 10: four in res3 and six in res4. In ResNet-50 they follow every residual block.

    In ResNet-101, res4 has 23 residual blocks. Of five non-local blocks, three follow every seventh block of res4, as
    in the released code. Of ten, six follow every third block of res4.

    Raises:
      InputError: for another depth or count.
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


class VideoResNet(nnx.Module):
    """A C2D or I3D ResNet: conv1, pool1, res2, pool2, res3 to res5 and the classifier.

    The input is normalized video (b,t,h,w,3). A call returns the logits (b,k) and a dict that names every intermediate:
    conv1, pool1, res2_0, .., pool2, res3_1_nonlocal (after this non-local block), .., logits. `model.eval()` selects
    running statistics and turns off dropout.

    Raises:
      InputError: for a choice in the configuration that does not exist.
    """

    def __init__(self, config: ResNetConfig, *, rngs: nnx.Rngs):
        config.check()
        geometry = resolve(config.geometry)
        dtype = jnp.dtype(config.dtype)
        norm = {"kind": config.norm, "group_size": config.group_size, "epsilon": config.norm_epsilon}
        self.config = config
        self.pools = (geometry.pool1, geometry.pool2)

        width = config.width
        conv1_kernel = (5 if config.inflate else 1, geometry.conv1_kernel, geometry.conv1_kernel)
        self.conv1 = Conv(3, width, conv1_kernel, geometry.conv1_stride, fan=geometry.fan, dtype=dtype, rngs=rngs)
        self.norm1 = Norm(width, **norm)
        features = width
        for index, (stage, count) in enumerate(config.stages().items()):
            blocks = []
            for position in range(count):
                nonlocal_block = None
                if position in config.nonlocal_blocks.get(stage, ()):
                    options = _nonlocal_options(config, geometry, stage)
                    kind = VARIANTS.get(options.pop("variant", None), NonLocalBlock)
                    nonlocal_block = kind(4 * width * 2**index, **options, dtype=dtype, rngs=rngs)
                blocks.append(
                    Bottleneck(
                        features,
                        config.inner_width(index),
                        4 * width * 2**index,
                        stride=2 if index and position == 0 else 1,
                        stride_on_1x1=config.stride_on_1x1,
                        groups=config.groups,
                        inflate=config.inflate if _is_inflated(stage, position) else None,
                        nonlocal_block=nonlocal_block,
                        fan=geometry.fan,
                        zero_init_residual=geometry.zero_init_residual,
                        norm=norm,
                        dtype=dtype,
                        rngs=rngs,
                    )
                )
                features = 4 * width * 2**index
            setattr(self, stage, nnx.List(blocks))
        if config.num_classes is None:
            self.classifier = None
        else:
            self.classifier = Classifier(
                features, config.num_classes, dropout=config.dropout, window=config.head_window, rngs=rngs
            )

    def __call__(
        self, video: Float[Array, "b t h w 3"], dropout_key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "b k"], dict[str, Array]]:
        """Returns the logits and the dict of intermediates. Training draws its dropout from `dropout_key`.

        Raises:
          InputError: the network has no classifier, the video has another shape, or training needs a `dropout_key`.
        """
        if self.classifier is None:
            raise InputError("num_classes=None: a network without classifier gives features and no logits")
        out = self.features(video)
        with jax.named_scope("logits"):
            out["logits"] = self.classifier(list(out.values())[-1], dropout_key)
        return out["logits"], out

    def features(
        self, video: Float[Array, "b t h w 3"], valid: Bool[Array, "b t h w"] | None = None
    ) -> dict[str, Array]:
        """Returns the dict of intermediates, without logits.

        Args:
          video: normalized video.
          valid: whether each pixel is valid. A place of a map stands for the pixel at its index times the stride. If
            this pixel is not valid, the place is not a key of a non-local block. By default all pixels are valid.

        Raises:
          InputError: the video has another shape, or no pixel.
        """
        if video.ndim != 5 or video.shape[-1] != 3 or 0 in video.shape:
            raise InputError(f"the network takes videos (b,t,h,w,3) with channels last, not shape {video.shape}")
        out = {}

        def apply(name, layer, *arguments):
            with jax.named_scope(name):  # the name in a profile and in the summary
                out[name] = layer(*arguments)
            if name in last_frozen:
                out[name] = jax.lax.stop_gradient(out[name])
            return out[name]

        pool1, pool2 = self.pools
        last_frozen = self._last_frozen()
        x = apply("conv1", lambda video: self.norm1(self.conv1(video), rectified=True), video)
        if pool1:
            x = apply("pool1", pool1, x)
        for stage in self.config.stages():
            run = nnx.remat(_run) if stage in self.config.remat else _run
            for position, block in enumerate(getattr(self, stage)):
                x = apply(f"{stage}_{position}", run, block, x)
                if block.nonlocal_block is not None:
                    x = apply(f"{stage}_{position}_nonlocal", run, block.nonlocal_block, x, *_valid_at(x.shape, valid))
            if stage == "res2" and pool2:
                x = apply("pool2", pool2, x)
        return out

    def _last_frozen(self) -> tuple[str, ...]:
        """Returns the names of the intermediates that no gradient passes."""
        if not self.config.freeze_at:
            return ()
        stage = self.config.frozen_stages()[-1]
        if stage == "conv1":
            return ("conv1",)
        last = len(getattr(self, stage)) - 1
        return (f"{stage}_{last}", f"{stage}_{last}_nonlocal")

    def nonlocal_blocks(self) -> dict[str, NonLocalBlock]:
        """Returns the inserted blocks by name, {"res3_1_nonlocal": NonLocalBlock, ..}, in the order they run."""
        return {
            f"{stage}_{position}_nonlocal": block.nonlocal_block
            for stage in self.config.stages()
            for position, block in enumerate(getattr(self, stage))
            if block.nonlocal_block is not None
        }


def _run(layer: nnx.Module, x: Array, *valid: Array) -> Array:
    return layer(x, *valid)


def _valid_at(shape: Shape, valid: Array | None) -> tuple[Array, ...]:
    """Returns (valid,) for the places of a map of this shape, and () if `valid` is None."""
    if valid is None:
        return ()
    steps = [-(-whole // part) for whole, part in zip(valid.shape[1:], shape[1:4], strict=True)]
    return (valid[:, :: steps[0], :: steps[1], :: steps[2]][:, : shape[1], : shape[2], : shape[3]],)


def _is_inflated(stage: str, position: int) -> bool:
    """Returns whether a block is inflated: all of res2, blocks 0, 2, 4, .. of res3 and res4, and block 1 of res5."""
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
        defaults["subsample"] = None  # there are no neighbours in space to pool
    if "variant" in asked:
        defaults = {name: defaults[name] for name in ("norm", "group_size", "init")}
    return defaults | asked
