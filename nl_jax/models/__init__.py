"""Flax NNX modules: the non-local block, C2D and I3D ResNets, Mask R-CNN."""

from nl_jax.models.detection.config import DetectorConfig
from nl_jax.models.detection.mask_rcnn import Detections, MaskRCNN
from nl_jax.models.nonlocal_block import NonLocalBlock
from nl_jax.models.resnet import VideoResNet
from nl_jax.models.resnet_config import ResNetConfig

__all__ = ["Detections", "DetectorConfig", "MaskRCNN", "NonLocalBlock", "ResNetConfig", "VideoResNet"]
