"""The configuration of a detector and of its training: a frozen dataclass that checks itself."""

import dataclasses
import math
from collections.abc import Mapping

from nl_jax.errors import InputError
from nl_jax.models.resnet_config import ResNetConfig

# The blocks of the paper's image networks have the options of the released code, and a norm that can be learned.
BLOCK_DEFAULTS = {"subsample": "before", "scale": "rsqrt_d", "init": "normal"}
# The strides of P2 to P6.
STRIDES = (4, 8, 16, 32, 64)


@dataclasses.dataclass(frozen=True)
class DetectorConfig:
    """The configuration of a Mask R-CNN with a feature pyramid (He et al. 2017, Lin et al. 2017), and its recipe.

    Attributes:
      backbone: the ResNet, whose classifier is left out. By default its blocks are as in the released code: keys are
        pooled first, and scores are multiplied by 1/sqrt(d). `nonlocal_options` changes this. If the backbone has
        frozen norms, the blocks have affine norms, because a frozen norm would keep a new block the identity.
      num_classes: number of classes, without the background.
      masks: whether there is a mask head.
      keypoints: number of keypoints of a keypoint head, which replaces the mask head. 0 stands for no keypoint head.
      keypoint_blocks: the convolutions of the keypoint head that a non-local block follows, counted from 1. Table 6
        has (2, 4, 6, 8).
      keypoint_options: options of these blocks, as `nonlocal_options` of the backbone. By default the blocks have no
        norm, because the head has none.
      fpn_channels: channels of P2 to P6.
      box_channels: channels of the two layers of the box head.
      mask_channels: channels of the convolutions of the mask head.
      keypoint_channels: channels of the convolutions of the keypoint head.
      keypoint_convolutions: number of convolutions of the keypoint head.
      anchor_sides: square root of the area of the anchors of P2 to P6, in pixels.
      anchor_ratios: height / width of the anchors of a place.
      round_anchors: whether the corners of anchors are whole pixels.
      floor_strides: whether anchors lie floor(side of the image / places of the map) apart, as in torchvision. At P6 of
        an image 800 pixels high this distance is 61 and not 64.
      pre_nms: number of anchors of a level that NMS takes, highest scores first.
      proposals: number of proposals of an image after NMS.
      train_pre_nms: `pre_nms` in training.
      train_proposals: `proposals` in training.
      rpn_nms: largest IoU of two proposals after NMS.
      score_threshold: a detection has a score above this number.
      nms: largest IoU of two detections of the same class.
      detections: largest number of detections of an image.
      samples: values along a side of a RoIAlign bin.
      aligned: see `roi_align`.
      box_size: bins along a side for the box head.
      mask_size: bins along a side for the mask head.
      keypoint_size: bins along a side for the keypoint head. A keypoint heatmap has four times as many places along a
        side.
      box_weights: weights of the four deltas of a box, see `boxes.encode`.
      rpn_positive: smallest IoU with an object at which an anchor is positive. The best anchors of an object are always
        positive.
      rpn_negative: an anchor is negative if its IoU with every object is below this number.
      rpn_samples: number of anchors of an image that enter the loss.
      rpn_positive_fraction: largest share of positive anchors among them, in [0, 1].
      rpn_beta: the distance at which the RPN's smooth L1 turns from a square into a line.
      roi_positive: smallest IoU with an object at which a proposal is positive. Below it a proposal is negative.
      roi_samples: number of proposals of an image that enter the losses of the heads.
      roi_positive_fraction: largest share of positive proposals among them, in [0, 1].
      box_beta: the distance at which the box head's smooth L1 turns from a square into a line.
      crowd_overlap: an anchor or proposal is not negative if at least this share of its area lies in a crowd region.
      mask_padding: whether padding is left out of the keys of non-local blocks. Weights that were trained with padding
        need False.
    """

    backbone: ResNetConfig = dataclasses.field(default_factory=lambda: ResNetConfig(norm="frozen"))
    num_classes: int = 80
    masks: bool = True
    keypoints: int = 0
    keypoint_blocks: tuple[int, ...] = ()
    keypoint_options: Mapping[str, object] = dataclasses.field(default_factory=dict)
    fpn_channels: int = 256
    box_channels: int = 1024
    mask_channels: int = 256
    keypoint_channels: int = 512
    keypoint_convolutions: int = 8
    anchor_sides: tuple[float | int, ...] = (32, 64, 128, 256, 512)
    anchor_ratios: tuple[float | int, ...] = (0.5, 1.0, 2.0)
    round_anchors: bool = True
    floor_strides: bool = False
    pre_nms: int = 1000
    proposals: int = 1000
    train_pre_nms: int = 2000
    train_proposals: int = 1000
    rpn_nms: float = 0.7
    score_threshold: float = 0.05
    nms: float = 0.5
    detections: int = 100
    samples: int = 2
    aligned: bool = False
    box_size: int = 7
    mask_size: int = 14
    keypoint_size: int = 14
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    rpn_positive: float = 0.7
    rpn_negative: float = 0.3
    rpn_samples: int = 256
    rpn_positive_fraction: float = 0.5
    rpn_beta: float = 1 / 9
    roi_positive: float = 0.5
    roi_samples: int = 512
    roi_positive_fraction: float = 0.25
    box_beta: float = 1.0
    crowd_overlap: float = 0.7
    mask_padding: bool = True

    def __hash__(self) -> int:
        # Mappings have no hash. Without this method a network's graphdef could not be a static argument of jit.
        return hash((self.backbone, self.num_classes, self.keypoints, self.keypoint_blocks))

    def resolved_backbone(self) -> ResNetConfig:
        """Returns the backbone without classifier, with the defaults of its blocks filled in.

        Raises:
          InputError: the blocks sum over time, or are blocks of another paper.
        """
        options = {}
        if any(self.backbone.nonlocal_blocks.values()):
            norm = {"norm": "affine"} if self.backbone.norm == "frozen" else {}
            options = BLOCK_DEFAULTS | norm | dict(self.backbone.nonlocal_options)
            if options.get("axes") == "time":
                raise InputError("nonlocal_options.axes='time': an image has no time to sum over")
            if variant := options.get("variant"):  # no variant can leave out the padding of an image
                raise InputError(f"nonlocal_options.variant={variant!r} is for networks of videos, not for a detector")
        else:
            options = self.backbone.nonlocal_options  # without a block these raise an error in `ResNetConfig.check`
        return dataclasses.replace(self.backbone, num_classes=None, nonlocal_options=options)

    def resolved_keypoint_options(self) -> dict[str, object]:
        """Returns the options of the blocks in the keypoint head, with their defaults filled in."""
        return BLOCK_DEFAULTS | {"norm": "none"} | dict(self.keypoint_options)

    def has_masks(self) -> bool:
        """Returns whether there is a mask head. A keypoint head takes its place."""
        return self.masks and not self.keypoints

    def check(self) -> None:
        """Raises InputError for a choice that does not exist or a number out of range."""
        backbone = self.resolved_backbone()
        backbone.check()
        if len(backbone.stages()) != 4:
            raise InputError(
                f"the backbone has the stages {', '.join(backbone.stages())}; a pyramid needs res2 to res5"
            )
        if backbone.inflate is not None:
            raise InputError(f"inflate={backbone.inflate!r} reaches over time, and an image has none; set inflate=None")
        counts = (
            "num_classes",
            "fpn_channels",
            "box_channels",
            "mask_channels",
            "pre_nms",
            "proposals",
            "train_pre_nms",
        )
        counts += ("keypoint_channels", "keypoint_convolutions", "keypoint_size")
        counts += ("train_proposals", "detections", "samples", "box_size", "mask_size", "rpn_samples", "roi_samples")
        for name in counts:
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} is out of range; choose 1 or more")
        self._check_keypoints()
        parts = ("rpn_nms", "nms", "score_threshold", "rpn_positive", "rpn_negative", "rpn_positive_fraction")
        parts += ("roi_positive", "roi_positive_fraction", "crowd_overlap")
        for name in parts:
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)} is out of range; choose 0 to 1")
        if self.rpn_negative > self.rpn_positive:
            raise InputError(f"rpn_negative={self.rpn_negative} is above rpn_positive={self.rpn_positive}")
        if len(self.anchor_sides) != len(STRIDES):
            raise InputError(
                f"anchor_sides={self.anchor_sides} must be {len(STRIDES)} numbers, one for each of P2 to P6"
            )
        for name in ("anchor_sides", "anchor_ratios", "box_weights"):
            if not getattr(self, name) or min(getattr(self, name)) <= 0:
                raise InputError(f"{name}={getattr(self, name)} must be numbers above 0")
        for name in ("rpn_beta", "box_beta"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)} is out of range; choose a number above 0")

    def _check_keypoints(self) -> None:
        if self.keypoints < 0:
            raise InputError(f"keypoints={self.keypoints} is out of range; choose 0 or more")
        places, count = tuple(self.keypoint_blocks), self.keypoint_convolutions
        if any(not 1 <= place <= count for place in places) or len(set(places)) < len(places):
            raise InputError(
                f"keypoint_blocks={places} must be different numbers of 1 to {count}: the convolutions that a "
                "block follows"
            )
        if places and not self.keypoints:
            raise InputError(f"keypoint_blocks={places}: a detector with keypoints=0 has no keypoint head for them")
        if self.keypoint_options and not places:
            raise InputError("keypoint_options are for blocks in the keypoint head, and keypoint_blocks is empty")
        if self.resolved_keypoint_options().get("axes") == "time":
            raise InputError("keypoint_options.axes='time': an image has no time to sum over")
