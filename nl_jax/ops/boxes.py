"""Boxes (x0, y0, x1, y1) in pixels: their area, their overlap, and the four deltas that move one box onto another.

A box covers x0 <= x < x1, so its width is x1 - x0. One letter per axis: n and m count boxes, * stands for any axes.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from nl_jax.ops.precision import widen

# A width or height grows at most 1000 / 16 = 62.5 times. The exp of a large number would overflow.
MAX_LOG_SCALE = math.log(1000 / 16)


def area(boxes: Num[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Returns width times height in square pixels, and 0 where width or height is negative."""
    sides = jnp.maximum(widen(boxes[..., 2:]) - widen(boxes[..., :2]), 0)
    return sides[..., 0] * sides[..., 1]


def is_larger(boxes: Num[Array, "*n 4"], side: float) -> Bool[Array, "*n"]:
    """Returns whether width and height are both at least `side` pixels, and both more than 0."""
    sides = widen(boxes[..., 2:]) - widen(boxes[..., :2])
    return ((sides >= side) & (sides > 0)).all(-1)


def intersection(a: Num[Array, "n 4"], b: Num[Array, "m 4"]) -> Float[Array, "n m"]:
    """Returns the area in square pixels that the two boxes of every pair share."""
    a, b = widen(a)[:, None], widen(b)[None]
    sides = jnp.maximum(jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2]), 0)
    return sides[..., 0] * sides[..., 1]


def iou(a: Num[Array, "n 4"], b: Num[Array, "m 4"]) -> Float[Array, "n m"]:
    """Returns the intersection over union of every pair, in [0, 1]. It is 0 where both boxes have no area."""
    shared = intersection(a, b)
    union = area(a)[:, None] + area(b)[None] - shared
    return shared / jnp.where(union > 0, union, 1)


def covered(a: Num[Array, "n 4"], b: Num[Array, "m 4"]) -> Float[Array, "n m"]:
    """Returns the share, in [0, 1], of the area of every box a that lies in every box b. It is 0 without an area."""
    whole = area(a)[:, None]
    return intersection(a, b) / jnp.where(whole > 0, whole, 1)


def encode(
    boxes: Num[Array, "*n 4"],
    references: Num[Array, "*n 4"],
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> Float[Array, "*n 4"]:
    """Returns the deltas that move references onto boxes (Girshick et al. 2014, appendix C).

    The deltas are ((x - x_r) / w_r, (y - y_r) / h_r, log(w / w_r), log(h / h_r)) times `weights`, where x and y are
    centres. The result is finite only where both boxes have an area.
    """
    centre, side = _centre_and_side(boxes)
    reference, reference_side = _centre_and_side(references)
    deltas = jnp.concatenate([(centre - reference) / reference_side, jnp.log(side / reference_side)], axis=-1)
    return deltas * _by_coordinate(weights, deltas)


def decode(
    deltas: Float[Array, "*#n 4"],
    references: Num[Array, "*#n 4"],
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> Float[Array, "*#n 4"]:
    """Returns the boxes onto which deltas move references. Deltas and references may broadcast.

    The function is the inverse of `encode` with the same `weights`, except that a width or height grows at most 62.5
    times.
    """
    reference, reference_side = _centre_and_side(references)
    deltas = widen(deltas)
    deltas = deltas / _by_coordinate(weights, deltas)
    centre = deltas[..., :2] * reference_side + reference
    half = 0.5 * (jnp.exp(jnp.minimum(deltas[..., 2:], MAX_LOG_SCALE)) * reference_side)
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def clip(boxes: Num[Array, "*#n 4"], size: Num[Array, "*#n 2"]) -> Float[Array, "*#n 4"]:
    """Returns boxes, cut at the borders of images of `size` (h, w). A box outside its image gets no area.

    Boxes and sizes may broadcast.
    """
    limits = jnp.concatenate([size[..., ::-1], size[..., ::-1]], axis=-1)
    boxes = widen(boxes)
    return jnp.clip(boxes, 0, limits.astype(boxes.dtype))


def _centre_and_side(boxes):
    boxes = widen(boxes)
    side = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * side, side


def _by_coordinate(weights, deltas):
    return jnp.asarray(weights, deltas.dtype).reshape((1,) * (deltas.ndim - 1) + (4,))
