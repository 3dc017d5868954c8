"""The region proposal network (Ren et al. 2015): it scores anchors and moves the best ones onto objects."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from nl_jax.models.detection.config import DetectorConfig
from nl_jax.models.detection.layers import Conv2D
from nl_jax.ops import boxes as box_ops
from nl_jax.ops.nms import nms
from nl_jax.ops.precision import widen
from nl_jax.ops.relu import relu

MIN_SIDE = 1e-3  # pixels; smaller proposals are dropped


class RPNHead(nnx.Module):
    """A 3x3 convolution, then one objectness and four deltas for every anchor. All levels share the weights.

    `features` is the number of input channels, c, and `anchors` is the number of anchors of a place, a.
    """

    def __init__(self, features: int, anchors: int, *, dtype=jnp.float32, rngs: nnx.Rngs):
        options = {"init": nnx.initializers.normal(0.01), "dtype": dtype, "rngs": rngs}
        self.conv = Conv2D(features, features, 3, **options)
        self.objectness = Conv2D(features, anchors, 1, **options)
        self.deltas = Conv2D(features, 4 * anchors, 1, **options)

    def __call__(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b n"], Float[Array, "b n 4"]]:
        """Returns the objectness logits and the deltas of n = h w a anchors."""
        x = relu(self.conv(x))
        b = x.shape[0]
        return widen(self.objectness(x)).reshape(b, -1), widen(self.deltas(x)).reshape(b, -1, 4)


def proposals(
    objectness: list[Float[Array, "_"]],
    deltas: list[Float[Array, "_ 4"]],
    anchors: list[tuple[Float[Array, "_ 4"], Bool[Array, "_"]]],
    size: Int[Array, "2"],
    config: DetectorConfig,
    train: bool,
) -> tuple[Float[Array, "k 4"], Float[Array, "k"], Bool[Array, "k"]]:
    """Returns the proposals of one image (Ren et al. 2015).

    The best anchors of every level are decoded and clipped to the image, and NMS drops some of them. The proposals are
    the best boxes of all levels together. They get no gradient.

    Args:
      objectness: logits of the anchors, one array for each level.
      deltas: deltas of the anchors, one array for each level.
      anchors: for each level the anchors in pixels, and which of them lie at a place in the image.
      size: height and width of the image in pixels.
      config: configuration of the detector.
      train: whether to take the numbers of boxes for training.

    Returns:
      The boxes (k,4) in pixels, the scores (k,) in [0, 1], highest first, and whether each proposal exists (k,).
    """
    most = config.train_pre_nms if train else config.pre_nms
    most = min(most, max(scores.shape[0] for scores in objectness))
    found = [_best(*level, size, most) for level in zip(objectness, deltas, anchors, strict=True)]
    boxes, scores = (jnp.stack(arrays) for arrays in zip(*found, strict=True))
    # The levels run one after another, because their matrices are large. One program then serves all levels.
    keep = jax.lax.map(lambda level: nms(*level, config.rpn_nms), (boxes, scores, scores > -jnp.inf))
    scores = jnp.where(keep, scores, -jnp.inf).ravel()
    count = config.train_proposals if train else config.proposals
    boxes, scores = _top(scores, boxes.reshape(-1, 4), count)
    valid = scores > -jnp.inf
    return jax.lax.stop_gradient((boxes, jnp.where(valid, jax.nn.sigmoid(scores), 0), valid))


def _best(objectness, deltas, anchors, size, most):
    """Returns the decoded boxes of the `most` highest scores, (most,4) and (most,).

    A score of -inf stands for no box.
    """
    anchors, valid = anchors
    objectness, deltas = jax.lax.stop_gradient((objectness, deltas))
    objectness = jnp.where(valid, objectness, -jnp.inf)
    scores, index = jax.lax.top_k(objectness, min(most, objectness.shape[0]))
    boxes = box_ops.clip(box_ops.decode(deltas[index], anchors[index].astype(deltas.dtype)), size[None])
    scores = jnp.where(box_ops.is_larger(boxes, MIN_SIDE), scores, -jnp.inf)
    missing = most - scores.shape[0]
    return jnp.pad(boxes, ((0, missing), (0, 0))), jnp.pad(scores, (0, missing), constant_values=-jnp.inf)


def _top(scores, boxes, count):
    """Returns the boxes of the `count` highest scores. Zeros and -inf fill the places of missing boxes."""
    missing = max(0, count - scores.shape[0])
    scores = jnp.pad(scores, (0, missing), constant_values=-jnp.inf)
    scores, index = jax.lax.top_k(scores, count)
    boxes = jnp.pad(boxes, ((0, missing), (0, 0)))[index]
    return jnp.where((scores > -jnp.inf)[:, None], boxes, 0), scores
