"""Non-maximum suppression with static shapes. Its result is exactly the greedy choice.

The greedy choice takes boxes from the highest score down and drops each box that overlaps a box taken before. As an
equation: keep_j is true if no kept box i before j overlaps box j. The function starts with all boxes kept and applies
the equation until nothing changes. The first round gets the first box right, and every further round gets at least the
next box right. So the only fixpoint of the equation is the greedy choice. A round is one pass over an n x n matrix, and
2 to 9 rounds are typical.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from nl_jax.ops import boxes as box_ops


def nms(
    boxes: Num[Array, "n 4"],
    scores: Num[Array, "n"],
    valid: Bool[Array, "n"],
    threshold: float,
    classes: Int[Array, "n"] | None = None,
) -> Bool[Array, "n"]:
    """Returns whether each box is kept. No kept box has an IoU above `threshold` with a kept box of higher score.

    Args:
      boxes: (x0, y0, x1, y1) in pixels.
      scores: scores of the boxes. If two scores are equal, the first counts as the higher one.
      valid: whether each box takes part. An invalid box is not kept and drops no other box.
      threshold: largest IoU of two kept boxes, in [0, 1].
      classes: classes of the boxes. With them only boxes of the same class drop each other.
    """
    order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), stable=True)
    keep = _greedy(boxes[order], valid[order], threshold, None if classes is None else classes[order])
    return jnp.zeros_like(valid).at[order].set(keep, unique_indices=True, mode="promise_in_bounds")


def best_by_class(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, "n"],
    classes: Int[Array, "n"],
    threshold: float,
    count: int,
    chunk: int = 1000,
) -> tuple[Int[Array, "k"], Bool[Array, "k"]]:
    """Returns the k = `count` boxes of highest score that `nms` by class keeps.

    Boxes after the k-th kept box cannot change the result. So the function takes one chunk of boxes at a time until k
    boxes are kept, and never holds a matrix of all pairs.

    Args:
      boxes: (x0, y0, x1, y1) in pixels.
      scores: scores of the boxes, sorted, highest first. A score of -inf stands for no box.
      classes: classes of the boxes. Only boxes of the same class drop each other.
      threshold: largest IoU of two kept boxes of a class, in [0, 1].
      count: number of boxes to return, k.
      chunk: number of boxes that are taken at a time.

    Returns:
      The indices of the kept boxes, highest score first, and whether each of the k places holds a box.
    """
    n = scores.shape[0]
    chunk = min(chunk, n)
    padding = -n % chunk
    boxes = jnp.pad(boxes, ((0, padding), (0, 0)))
    scores = jnp.pad(scores, (0, padding), constant_values=-jnp.inf)
    classes = jnp.pad(classes, (0, padding))
    exists = scores > -jnp.inf

    def unfinished(state):
        start, _, kept = state
        return (start < n) & (kept[-1] < 0) & exists[jnp.minimum(start, n - 1)]

    def take_chunk(state):
        start, found, kept = state
        box, label, there = (jax.lax.dynamic_slice_in_dim(x, start, chunk) for x in (boxes, classes, exists))
        before = kept >= 0
        dropped = _overlaps(found, box, threshold, (classes[jnp.maximum(kept, 0)], label)) & before[:, None]
        keep = _greedy(box, there & ~dropped.any(0), threshold, label)
        # New boxes go behind the boxes of earlier chunks. Boxes beyond k fall off the end.
        place = jnp.where(keep, before.sum() + jnp.cumsum(keep) - 1, count)
        found = found.at[place].set(box, mode="drop")
        kept = kept.at[place].set(start + jnp.arange(chunk, dtype=kept.dtype), mode="drop")
        return start + chunk, found, kept

    start = (jnp.int32(0), jnp.zeros((count, 4), boxes.dtype), jnp.full(count, -1, jnp.int32))
    _, _, kept = jax.lax.while_loop(unfinished, take_chunk, start)
    return jnp.maximum(kept, 0), kept >= 0


def _greedy(boxes, valid, threshold, classes):
    """Applies `nms` to boxes in the order of their scores."""
    both = None if classes is None else (classes, classes)
    earlier = jnp.triu(jnp.ones((boxes.shape[0],) * 2, bool), k=1)
    drops = _overlaps(boxes, boxes, threshold, both) & earlier & valid[:, None]

    def step(state):
        keep, _ = state
        new = valid & ~(drops & keep[:, None]).any(0)
        return new, (new != keep).any()

    return jax.lax.while_loop(lambda state: state[1], step, (valid, jnp.array(True)))[0]


def _overlaps(a, b, threshold, classes=None):
    """Returns whether the IoU of every pair is above the threshold and their classes are the same."""
    # A threshold may lie between two float32 numbers. An IoU is above it if it is above the lower one of the two.
    threshold = _rounded_down(threshold, box_ops.area(a).dtype)
    overlaps = box_ops.iou(a, b) > threshold
    return overlaps if classes is None else overlaps & (classes[0][:, None] == classes[1][None])


def _rounded_down(value, dtype):
    rounded = np.asarray(value, dtype)
    return np.nextafter(rounded, np.asarray(-np.inf, dtype)) if float(rounded) > value else rounded
