"""Mask R-CNN (He et al. 2017) with non-local blocks in the backbone and keypoint head (section 6, tables 5 and 6)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from nl_jax.errors import InputError
from nl_jax.models.detection.anchors import anchors
from nl_jax.models.detection.box_head import BoxHead, detections
from nl_jax.models.detection.config import STRIDES, DetectorConfig
from nl_jax.models.detection.fpn import FPN
from nl_jax.models.detection.keypoint_head import KeypointHead, find_keypoints
from nl_jax.models.detection.mask_head import MaskHead
from nl_jax.models.detection.rpn import RPNHead, proposals
from nl_jax.models.nonlocal_block import NonLocalBlock
from nl_jax.models.resnet import VideoResNet
from nl_jax.ops.roi_align import roi_align_pyramid

SIDES_DIVIDE_BY = 32


class Detections(NamedTuple):
    """The detections in b images, at most d in each, with the highest score first.

    Attributes:
      boxes: (b,d,4), x0 y0 x1 y1 in pixels.
      scores: (b,d), in [0, 1].
      classes: (b,d), counted from 0, without the background.
      valid: (b,d), whether each detection exists.
      masks: (b,d,s,s), the probability that a place of the box belongs to the object. s is twice `mask_size`, 28 by
        default. None without mask head.
      keypoints: (b,d,k,3), x and y in pixels and the logit there. None without keypoint head.
      out: every intermediate by name, as in `VideoResNet`.
    """

    boxes: Float[Array, "b d 4"]
    scores: Float[Array, "b d"]
    classes: Int[Array, "b d"]
    valid: Bool[Array, "b d"]
    masks: Float[Array, "b d s s"] | None
    keypoints: Float[Array, "b d k 3"] | None
    out: dict[str, Array]


class MaskRCNN(nnx.Module):
    """Mask R-CNN: backbone, pyramid, proposals, boxes, and masks or keypoints.

    The input is normalized images (b,h,w,3), and the output is `Detections`.

    Raises:
      InputError: for a choice in the configuration that does not exist.
    """

    def __init__(self, config: DetectorConfig, *, rngs: nnx.Rngs):
        config.check()
        backbone = config.resolved_backbone()
        dtype = jnp.dtype(backbone.dtype)
        options = {"dtype": dtype, "rngs": rngs}
        self.config = config
        self.backbone = VideoResNet(backbone, rngs=rngs)
        channels = tuple(4 * backbone.width * 2**i for i in range(4))
        self.fpn = FPN(channels, config.fpn_channels, **options)
        self.rpn = RPNHead(config.fpn_channels, len(config.anchor_ratios), **options)
        self.box_head = BoxHead(config.fpn_channels, config, **options)
        self.mask_head = MaskHead(config.fpn_channels, config, **options) if config.has_masks() else None
        self.keypoint_head = KeypointHead(config.fpn_channels, config, **options) if config.keypoints else None

    def __call__(self, images: Float[Array, "b h w 3"], sizes: Int[Array, "b 2"]) -> Detections:
        """Returns the detections in images.

        Args:
          images: normalized images, padded below and on the right to sides that are multiples of 32.
          sizes: height and width of every image in pixels, without padding.

        Raises:
          InputError: for sides that are not multiples of 32.
        """
        out = self.features(images, sizes)
        boxes, scores, valid = self.proposals(out, sizes, train=False)
        out |= {"proposals": boxes, "proposal_scores": scores, "proposal_valid": valid}
        with jax.named_scope("box_head"):
            out["class_logits"], out["box_deltas"] = self.classify(out, boxes)
            found = jax.vmap(lambda *image: detections(*image, self.config))(
                out["class_logits"], out["box_deltas"], boxes, valid, sizes
            )
        masks = keypoints = None
        if self.mask_head is not None:
            with jax.named_scope("mask_head"):
                out["mask_logits"] = self.outline(out, found[0], found[2])
                masks = jax.nn.sigmoid(out["mask_logits"])
        if self.keypoint_head is not None:
            with jax.named_scope("keypoint_head"):
                out["heatmaps"], between = self.locate(out, found[0])
                keypoints = find_keypoints(out["heatmaps"], found[0])
            out |= between
        return Detections(*found, masks, keypoints, out)

    def features(self, images: Float[Array, "b h w 3"], sizes: Int[Array, "b 2"]) -> dict[str, Array]:
        """Returns the intermediates of the network before the proposals, by name.

        These are the intermediates of the backbone, `sizes`, the pyramid P2 to P6 (b,h,w,c), and for each of its levels
        objectness_P2 (b,n) and deltas_P2 (b,n,4), the logits and deltas of the anchors. The method takes the same
        arguments as a call.

        Raises:
          InputError: for sides that are not multiples of 32.
        """
        height, width = images.shape[1:3]
        if height % SIDES_DIVIDE_BY or width % SIDES_DIVIDE_BY:
            raise InputError(
                f"images of {height} x {width} pixels: both sides must be multiples of {SIDES_DIVIDE_BY}; "
                "pad them below and on the right"
            )
        valid = None
        if self.config.mask_padding:
            valid = _inside(sizes, images.shape[1:3])[:, None]
        out = self.backbone.features(images[:, None], valid)
        stages = self.backbone.config.stages()
        maps = [_last(out, stage, count)[:, 0] for stage, count in stages.items()]
        with jax.named_scope("fpn"):
            pyramid = self.fpn(maps)
        out["sizes"] = sizes
        out |= {f"P{i}": level for i, level in enumerate(pyramid, start=2)}
        with jax.named_scope("rpn"):
            for i, level in enumerate(pyramid, start=2):
                out[f"objectness_P{i}"], out[f"deltas_P{i}"] = self.rpn(level)
        return out

    def anchors(self, out: dict[str, Array], sizes: Int[Array, "b 2"]) -> list[tuple[Array, Array]]:
        """Returns the anchors (b,n,4) in pixels of every level, and which of them lie at a place in the image (b,n).

        Args:
          out: the result of `features`.
          sizes: height and width of every image in pixels, without padding.
        """

        def of_level(level):
            shape = out[f"P{level + 2}"].shape[1:3]
            return jax.vmap(lambda size: anchors(level, shape, size, self.config))(sizes)

        return [of_level(level) for level in range(len(STRIDES))]

    def proposals(
        self, out: dict[str, Array], sizes: Int[Array, "b 2"], train: bool
    ) -> tuple[Float[Array, "b n 4"], Float[Array, "b n"], Bool[Array, "b n"]]:
        """Returns the proposals of every image: boxes in pixels, scores in [0, 1], and whether each proposal exists.

        Args:
          out: the result of `features`.
          sizes: height and width of every image in pixels, without padding.
          train: whether to take the numbers of boxes for training.
        """
        objectness, deltas = (
            [out[f"{name}_P{i + 2}"] for i in range(len(STRIDES))] for name in ("objectness", "deltas")
        )
        return jax.vmap(lambda *image: proposals(*image, self.config, train))(
            objectness, deltas, self.anchors(out, sizes), sizes
        )

    def classify(
        self, out: dict[str, Array], boxes: Float[Array, "b n 4"]
    ) -> tuple[Float[Array, "b n k1"], Float[Array, "b n k1 4"]]:
        """Returns the logits and deltas of every box by class. Class 0 is the background.

        `out` is the result of `features`, and `boxes` are in pixels.
        """
        features = self._align(out, boxes, self.config.box_size)
        logits, deltas = self.box_head(features.reshape(-1, *features.shape[2:]))
        return tuple(a.reshape(*boxes.shape[:2], *a.shape[1:]) for a in (logits, deltas))

    def outline(
        self, out: dict[str, Array], boxes: Float[Array, "b n 4"], classes: Int[Array, "b n"]
    ) -> Float[Array, "b n s s"]:
        """Returns the mask logits of every box for its class, as s x s places.

        `out` is the result of `features`, `boxes` are in pixels, and `classes` count from 0 without the background.
        """
        features = self._align(out, boxes, self.config.mask_size)
        masks = self.mask_head(features.reshape(-1, *features.shape[2:]), classes.ravel())
        return masks.reshape(*boxes.shape[:2], *masks.shape[1:])

    def locate(
        self, out: dict[str, Array], boxes: Float[Array, "b n 4"]
    ) -> tuple[Float[Array, "b n k m m"], dict[str, Array]]:
        """Returns the keypoint heatmaps of every box, and the intermediates (b,n,s,s,c) of the head by name.

        `out` is the result of `features`, and `boxes` are in pixels.
        """
        features = self._align(out, boxes, self.config.keypoint_size)
        heatmaps, between = self.keypoint_head(features.reshape(-1, *features.shape[2:]))

        def of_boxes(array):
            return array.reshape(*boxes.shape[:2], *array.shape[1:])

        return of_boxes(heatmaps), {name: of_boxes(array) for name, array in between.items()}

    def nonlocal_blocks(self) -> dict[str, NonLocalBlock]:
        """Returns the inserted blocks by name, in the order they run: res4_4_nonlocal, .., keypoint_2_nonlocal, .."""
        head = self.keypoint_head
        of_head = zip(head.places, head.nonlocal_blocks, strict=True) if head is not None else ()
        return self.backbone.nonlocal_blocks() | {f"keypoint_{place}_nonlocal": block for place, block in of_head}

    def block_input(
        self, images: Float[Array, "b h w 3"], sizes: Int[Array, "b 2"], block: str
    ) -> tuple[Float[Array, "b 1 p q c"], Bool[Array, "b 1 p q"]]:
        """Returns the map that a non-local block of the backbone reads, and which of its places are keys.

        `images` and `sizes` are the arguments of a call. `block` is a name that `nonlocal_blocks` gives.
        """
        x = self.features(images, sizes)[block.removesuffix("_nonlocal")]
        valid = _inside(sizes, images.shape[1:3]) | (not self.config.mask_padding)
        rows, columns = (-(-whole // part) for whole, part in zip(images.shape[1:3], x.shape[2:4], strict=True))
        return x, valid[:, None, ::rows, ::columns]

    def frozen_parameters(self) -> tuple[str, ...]:
        """Returns the prefixes of the names, in `models.flat`, of all parameters that never get a gradient.

        These parameters belong to the first stages (`freeze_at`) and to frozen norms. An optimizer must not decay them.
        """
        config = self.backbone.config
        frozen = [f"backbone/{stage}/" for stage in config.frozen_stages()]
        if config.freeze_at:
            frozen.append("backbone/norm1/")
        for path, module in nnx.iter_modules(self):
            if getattr(module, "kind", None) == "frozen":
                frozen.append("/".join(map(str, path)) + "/")
        return tuple(dict.fromkeys(frozen))

    def _align(self, out, boxes, size):
        maps, scales = [out[f"P{i}"] for i in range(2, 6)], tuple(1 / stride for stride in STRIDES[:4])
        options = self.config.samples, self.config.aligned
        return roi_align_pyramid(maps, boxes, scales, size, *options, image_sizes=out["sizes"])


def _inside(sizes, shape):
    """Returns which pixels (b,h,w) lie in the image."""
    rows, columns = (jnp.arange(length, dtype=sizes.dtype)[None] < sizes[:, i, None] for i, length in enumerate(shape))
    return rows[:, :, None] & columns[:, None]


def _last(out, stage, count):
    """Returns the last map of a stage: of its last residual block, or of the non-local block after it."""
    name = f"{stage}_{count - 1}"
    return out.get(f"{name}_nonlocal", out[name])
