"""The box head: the class of a proposal and the exact box of its object (Girshick 2015)."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from nl_jax.models.detection.config import DetectorConfig
from nl_jax.models.detection.layers import dense
from nl_jax.ops import boxes as box_ops
from nl_jax.ops.nms import best_by_class
from nl_jax.ops.precision import widen

MIN_SIDE = 1e-2  # pixels; smaller detections are dropped


class BoxHead(nnx.Module):
    """Two fully connected layers, then k + 1 logits and four deltas for each class. Class 0 is the background."""

    def __init__(self, features: int, config: DetectorConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        options = {"dtype": dtype, "rngs": rngs}
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "uniform")
        hidden, classes = config.box_channels, config.num_classes + 1
        self.fc1 = dense(features * config.box_size**2, hidden, init=init, **options)
        self.fc2 = dense(hidden, hidden, init=init, **options)
        self.classes = dense(hidden, classes, init=nnx.initializers.normal(0.01), **options)
        self.deltas = dense(hidden, 4 * classes, init=nnx.initializers.normal(0.001), **options)

    def __call__(self, x: Float[Array, "n s s c"]) -> tuple[Float[Array, "n k1"], Float[Array, "n k1 4"]]:
        """Returns the logits and deltas of n boxes by class."""
        x = x.reshape(x.shape[0], -1)
        x = nnx.relu(self.fc2(nnx.relu(self.fc1(x))))
        return widen(self.classes(x)), widen(self.deltas(x)).reshape(x.shape[0], -1, 4)


def detections(
    logits: Float[Array, "n k1"],
    deltas: Float[Array, "n k1 4"],
    proposals: Float[Array, "n 4"],
    valid: Bool[Array, "n"],
    size: Int[Array, "2"],
    config: DetectorConfig,
) -> tuple[Float[Array, "d 4"], Float[Array, "d"], Int[Array, "d"], Bool[Array, "d"]]:
    """Returns the detections of one image (Girshick 2015).

    Every class of every proposal is a candidate if its softmax is above `config.score_threshold`. NMS by class drops
    candidates.

    Args:
      logits: logits of the background (class 0) and of the k classes, for n proposals.
      deltas: the deltas that move a proposal onto an object, by class.
      proposals: boxes in pixels.
      valid: whether each proposal exists.
      size: height and width of the image in pixels.
      config: configuration of the detector.

    Returns:
      The boxes (d,4) in pixels, the scores (d,), highest first, the classes (d,), counted from 0 without the
      background, and whether each of the d detections exists (d,).
    """
    n, classes = logits.shape[0], logits.shape[1] - 1
    scores = jax.nn.softmax(logits)[:, 1:]
    boxes = box_ops.decode(deltas[:, 1:], proposals[:, None].astype(deltas.dtype), config.box_weights)
    boxes = box_ops.clip(boxes, size.reshape(1, 1, 2))
    candidate = valid[:, None] & (scores > config.score_threshold) & box_ops.is_larger(boxes, MIN_SIDE)
    scores, boxes = jnp.where(candidate, scores, -jnp.inf).ravel(), boxes.reshape(-1, 4)
    # At most this many classes of one proposal can have a softmax above the threshold.
    most = min(classes, math.ceil(1 / config.score_threshold) - 1) if config.score_threshold else classes
    scores, index = jax.lax.top_k(scores, max(1, most) * n)
    boxes, labels = boxes[index], (index % classes).astype(jnp.int32)
    kept, found = best_by_class(boxes, scores, labels, config.nms, config.detections)
    boxes = jnp.where(found[:, None], boxes[kept], 0)
    return boxes, jnp.where(found, scores[kept], 0), jnp.where(found, labels[kept], 0), found
