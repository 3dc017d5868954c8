"""Boxes (x0, y0, x1, y1) in pixels: area, overlap, and the four numbers by which a box is moved onto another.

A box covers x0 <= x < x1: its width is x1 - x0. One letter per axis: n and m boxes, * any axes.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from nl_jax.ops.precision import widen

# A width or height grows by at most this factor: exp of a larger number would overflow.
MAX_LOG_SCALE = math.log(1000 / 16)


def area(boxes: Num[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Width times height, 0 where one of them is negative."""
    sides = jnp.maximum(widen(boxes[..., 2:]) - widen(boxes[..., :2]), 0)
    return sides[..., 0] * sides[..., 1]


def is_larger(boxes: Num[Array, "*n 4"], side: float) -> Bool[Array, "*n"]:
    """Whether width and height are both at least `side`, and more than 0."""
    sides = widen(boxes[..., 2:]) - widen(boxes[..., :2])
    return ((sides >= side) & (sides > 0)).all(-1)


def intersection(a: Num[Array, "n 4"], b: Num[Array, "m 4"]) -> Float[Array, "n m"]:
    """The area that every pair shares."""
    a, b = widen(a)[:, None], widen(b)[None]
    sides = jnp.maximum(jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2]), 0)
    return sides[..., 0] * sides[..., 1]


def iou(a: Num[Array, "n 4"], b: Num[Array, "m 4"]) -> Float[Array, "n m"]:
    """Intersection over union of every pair, in [0, 1]; 0 where both have no area."""
    shared = intersection(a, b)
    union = area(a)[:, None] + area(b)[None] - shared
    return shared / jnp.where(union > 0, union, 1)


def covered(a: Num[Array, "n 4"], b: Num[Array, "m 4"]) -> Float[Array, "n m"]:
    """The part of every a that lies in every b, in [0, 1]."""
    whole = area(a)[:, None]
    return intersection(a, b) / jnp.where(whole > 0, whole, 1)


def encode(
    boxes: Num[Array, "*n 4"],
    references: Num[Array, "*n 4"],
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> Float[Array, "*n 4"]:
    """Deltas that move references onto boxes: ((x - x_r) / w_r, (y - y_r) / h_r, log(w / w_r), log(h / h_r)) x weights.

    x, y are centres (Girshick et al. 2014, appendix C). Both must have an area; otherwise the result is not finite.
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
    """The boxes onto which deltas move references: undoes `encode`, but for a growth of more than 62.5 times.

    Both may broadcast.
    """
    reference, reference_side = _centre_and_side(references)
    deltas = widen(deltas)
    deltas = deltas / _by_coordinate(weights, deltas)
    centre = deltas[..., :2] * reference_side + reference
    half = 0.5 * (jnp.exp(jnp.minimum(deltas[..., 2:], MAX_LOG_SCALE)) * reference_side)
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def clip(boxes: Num[Array, "*#n 4"], size: Num[Array, "*#n 2"]) -> Float[Array, "*#n 4"]:
    """The parts of boxes inside images of size (h, w), which may broadcast; a box outside has no area afterwards."""
    limits = jnp.concatenate([size[..., ::-1], size[..., ::-1]], axis=-1)
    boxes = widen(boxes)
    return jnp.clip(boxes, 0, limits.astype(boxes.dtype))


def _centre_and_side(boxes):
    boxes = widen(boxes)
    side = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * side, side


def _by_coordinate(weights, deltas):
    return jnp.asarray(weights, deltas.dtype).reshape((1,) * (deltas.ndim - 1) + (4,))
