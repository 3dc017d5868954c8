"""Flax NNX modules: the non-local block, C2D and I3D ResNets."""

from nl_jax.models.nonlocal_block import NonLocalBlock
from nl_jax.models.resnet import ResNetConfig, VideoResNet

__all__ = ["NonLocalBlock", "ResNetConfig", "VideoResNet"]
