"""Samples of anchors and proposals for the losses: matched with true boxes, then drawn at random."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from nl_jax.ops import boxes as box_ops
from nl_jax.ops.fusion import materialize


class Truth(NamedTuple):
    """The true boxes of one image, up to g, or of b images with a first axis b.

    Attributes:
      boxes: (g,4), x0 y0 x1 y1 in pixels.
      classes: (g,), counted from 0, without the background.
      object: (g,), true for the box of one object.
      crowd: (g,), true for a region of many objects.
    """

    boxes: Float[Array, "*b g 4"]
    classes: Int[Array, "*b g"]
    object: Bool[Array, "*b g"]
    crowd: Bool[Array, "*b g"]


class Match(NamedTuple):
    """The comparison of the n boxes of one image with its true boxes, or of b images with a first axis b.

    Attributes:
      positive: (n,), whether the box is positive.
      negative: (n,), whether the box is negative.
      box: (n,), the index of the true box that the box overlaps most.
    """

    positive: Bool[Array, "*b n"]
    negative: Bool[Array, "*b n"]
    box: Int[Array, "*b n"]


class Sample(NamedTuple):
    """A sample of k of the n boxes of one image, positive boxes first, or of b images with a first axis b.

    Attributes:
      index: (k,), the index of the box, in [0, n).
      positive: (k,), whether the box is positive.
      taken: (k,), whether there is a box at this place of the sample.
    """

    index: Int[Array, "*b k"]
    positive: Bool[Array, "*b k"]
    taken: Bool[Array, "*b k"]


def truth(
    boxes: Float[Array, "b g 4"],
    classes: Int[Array, "b g"],
    crowd: Bool[Array, "b g"],
    valid: Bool[Array, "b g"],
    sizes: Int[Array, "b 2"],
) -> tuple[Truth, Int[Array, ""]]:
    """Returns the true boxes, clipped to their images, and the number of valid boxes that have no area there.

    Boxes without area are dropped.

    Args:
      boxes: (x0, y0, x1, y1) in pixels.
      classes: classes of the boxes, counted from 0, without the background.
      crowd: whether each box is a region of many objects.
      valid: whether each box exists.
      sizes: height and width of every image in pixels, without padding.
    """
    boxes = box_ops.clip(boxes, sizes[:, None])
    has_area = box_ops.is_larger(boxes, 0.0)
    dropped = (valid & ~has_area).sum()
    valid = valid & has_area
    return Truth(boxes, classes, valid & ~crowd, valid & crowd), dropped


def match(
    boxes: Float[Array, "b n 4"],
    valid: Bool[Array, "b n"],
    truth: Truth,
    *,
    positive: float,
    negative: float,
    crowd_overlap: float,
    best_of_box: bool = False,
) -> Match:
    """Compares every box with every true box of its image (Ren et al. 2015, section 3.1).

    An invalid box is neither positive nor negative.

    Args:
      boxes: (x0, y0, x1, y1) in pixels.
      valid: whether each box exists.
      truth: the true boxes.
      positive: a box is positive if its IoU with an object is at least this number.
      negative: a box is negative if it is not positive and its IoU with every object is below this number.
      crowd_overlap: a box is not negative if at least this share of its area lies in a crowd region.
      best_of_box: whether a box is also positive if an object overlaps no other box more.
    """
    dtype = jnp.promote_types(boxes.dtype, truth.boxes.dtype)
    boxes, true = (jax.lax.stop_gradient(a.astype(dtype)) for a in (boxes, truth.boxes))

    def compare(i, found):
        """Updates `found` with the i-th true box of every image. All boxes at once would be an array (b,g,n)."""
        best, index, is_best, in_crowd = found
        true_box, is_object, is_crowd = true[:, i, None], truth.object[:, i, None], truth.crowd[:, i, None]
        # The overlaps are computed once and kept, because `overlap == largest` needs the same bits on both sides.
        overlap = materialize(jax.vmap(box_ops.iou)(boxes, true_box)[..., 0])
        overlap = jnp.where(is_object & valid, overlap, -1)
        largest = overlap.max(axis=1, keepdims=True)
        covered = jax.vmap(box_ops.covered)(boxes, true_box)[..., 0]
        return (
            jnp.maximum(best, overlap),
            jnp.where(overlap > best, i, index),
            is_best | ((overlap == largest) & (largest > 0)),
            jnp.maximum(in_crowd, jnp.where(is_crowd, covered, 0)),
        )

    shape = boxes.shape[:2]
    start = (
        jnp.full(shape, -1, dtype),
        jnp.zeros(shape, int),
        jnp.zeros(shape, bool),
        jnp.zeros(shape, dtype),
    )
    exists = (truth.object | truth.crowd).any(axis=0)
    count = jnp.where(exists, 1 + jnp.arange(exists.shape[0]), 0).max()
    best, index, is_best, in_crowd = jax.lax.fori_loop(0, count, compare, start)
    is_positive = (best >= positive) | (is_best & best_of_box)
    is_negative = ~is_positive & (best < negative) & (in_crowd < crowd_overlap)
    return Match(is_positive & valid, is_negative & valid, index)


def sample(random: Float[Array, "n"], match: Match, count: int, most_positive: int) -> Sample:
    """Returns a sample of up to `most_positive` positive boxes, filled up to `count` boxes with negative ones.

    Args:
      random: a random number above 0 for each box. The sample takes the boxes with the largest numbers.
      match: which boxes are positive and which are negative.
      count: number of boxes in the sample.
      most_positive: largest number of positive boxes in the sample.
    """
    positive, index = jax.lax.top_k(jnp.where(match.positive, random, 0), min(most_positive, random.shape[0]))
    negative, other = jax.lax.top_k(jnp.where(match.negative, random, 0), min(count, random.shape[0]))
    taken = jnp.concatenate(
        [positive > 0, (negative > 0) & (jnp.arange(negative.shape[0]) < count - (positive > 0).sum())]
    )
    index = jnp.concatenate([index, other])
    is_positive = jnp.arange(index.shape[0]) < positive.shape[0]
    order = jnp.argsort(~taken, stable=True)[:count]
    missing = (0, count - order.shape[0])
    return Sample(*(jnp.pad(a[order], missing) for a in (index, is_positive & taken, taken)))


def numbers_of_places(key: Key[Array, ""], shape: tuple[int, int], anchors: int) -> Float[Array, "n"]:
    """Returns a random number above 0 for each of the n = h w a anchors of a map.

    The number of an anchor does not depend on h and w, so padding an image does not change its sample.

    Args:
      key: key of the numbers.
      shape: h, w of the map.
      anchors: anchors of a place, a.
    """
    rows = jax.vmap(lambda y: jax.random.fold_in(key, y))(jnp.arange(shape[0]))
    return jax.vmap(lambda row: _above_zero(row, (shape[1], anchors)))(rows).ravel()


def numbers_of_boxes(key: Key[Array, ""], proposals: int, true: int) -> Float[Array, "n"]:
    """Returns a random number above 0 for every proposal, and then for every true box.

    The number of a box depends only on `key` and on its index, so padding does not change the sample.

    Args:
      key: key of the numbers.
      proposals: number of proposals.
      true: number of true boxes, with padding.
    """
    keys = jax.random.split(key)
    return jnp.concatenate([_above_zero(keys[0], (proposals,)), _above_zero(keys[1], (true,))])


def _above_zero(key, shape):
    return 1 - jax.random.uniform(key, shape, jnp.float32)
