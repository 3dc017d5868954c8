"""Anchors: boxes of fixed shapes at every place of a map (Ren et al. 2015, section 3.1)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nl_jax.models.detection.config import STRIDES, DetectorConfig


def cell(side: float | int, ratios: tuple[float | int, ...], rounded: bool) -> np.ndarray:
    """Returns the anchors (a,4) of one place, in pixels relative to the corner of the place.

    Args:
      side: square root of the area of an anchor, in pixels.
      ratios: height / width of each of the a anchors.
      rounded: whether the corners are whole pixels.
    """
    heights = np.sqrt(np.asarray(ratios, np.float32))
    sides = side * np.stack([1 / heights, heights], axis=1)
    boxes = np.concatenate([-sides, sides], axis=1) / 2
    return (np.round(boxes) if rounded else boxes).astype(np.float32)


def anchors(
    level: int, shape: tuple[int, int], size: Int[Array, "2"], config: DetectorConfig
) -> tuple[Float[Array, "n 4"], Bool[Array, "n"]]:
    """Returns the anchors of a map, and which of them belong to a place inside the image.

    Args:
      level: index of the map, 0 for P2.
      shape: h, w of the map.
      size: height and width of the image in pixels, without padding.
      config: configuration of the detector.

    Returns:
      n = h w a boxes (x0, y0, x1, y1) in pixels and n truth values, row by row and place by place.
    """
    stride = STRIDES[level]
    step = jnp.full(2, stride, size.dtype)
    if config.floor_strides:
        padded = -(-size // 32) * 32
        step = padded // -(-padded // stride)
    places = [jnp.arange(length, dtype=size.dtype) for length in shape]
    y, x = (place * one_step for place, one_step in zip(places, step, strict=True))
    valid = ((places[0] * stride < size[0])[:, None] & (places[1] * stride < size[1])[None])[..., None]
    cells = jnp.asarray(cell(config.anchor_sides[level], config.anchor_ratios, config.round_anchors))
    y, x = jnp.meshgrid(y, x, indexing="ij")
    corner = jnp.stack([x, y, x, y], axis=-1)[..., None, :].astype(jnp.float32)
    boxes = corner + cells[None, None]
    return boxes.reshape(-1, 4), jnp.broadcast_to(valid, boxes.shape[:3]).ravel()
