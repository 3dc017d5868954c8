"""The losses of Mask R-CNN on sampled anchors and proposals: objectness, classes, boxes, masks and keypoints.

A batch is a dict:

  images   float (b,h,w,3)     normalized, padded below and on the right
  sizes    int   (b,2)         height and width in pixels, without padding
  boxes    float (b,g,4)       x0 y0 x1 y1 in pixels
  classes  int   (b,g)         from 0, without the background
  crowd    bool  (b,g)         regions of many objects: no box inside one is negative
  valid    bool  (b,g)         which of the g boxes exist
  masks    (b,g,m,m)           of any type: true where the centre of a cell lies on the object, for m x m cells of the
                               true box; with a mask head only. An empty mask has no part in the loss
  keypoints float (b,g,k,3)    x, y in pixels (pixel centres at one half) and visibility, which is 0 for an unlabelled
                               keypoint; with a keypoint head only
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from nl_jax.errors import InputError
from nl_jax.models.detection.keypoint_head import heatmap_targets, keypoint_loss
from nl_jax.models.detection.mask_rcnn import MaskRCNN
from nl_jax.models.detection.sampling import Sample, Truth, match, numbers_of_boxes, numbers_of_places, sample, truth
from nl_jax.ops import boxes as box_ops

Batch = Mapping[str, Array]
FIELDS = ("images", "sizes", "boxes", "classes", "crowd", "valid")


class RoISample(NamedTuple):
    """The n proposals of each of b images that the heads are trained on, positive ones first.

    Attributes:
      boxes: (b,n,4), x0 y0 x1 y1 in pixels.
      classes: (b,n), the class of the true box that the proposal overlaps most, counted from 0.
      targets: (b,n,4), this true box.
      true: (b,n), the index of this true box.
      positive: (b,n), whether the proposal is positive.
      taken: (b,n), whether there is a proposal at this place.
    """

    boxes: Float[Array, "b n 4"]
    classes: Int[Array, "b n"]
    targets: Float[Array, "b n 4"]
    true: Int[Array, "b n"]
    positive: Bool[Array, "b n"]
    taken: Bool[Array, "b n"]


def loss(model: MaskRCNN, batch: Batch, key: Key[Array, ""]) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Returns the sum of all losses of a batch, and a dict.

    The dict has the single losses, the numbers of positive samples, and the number of true boxes without area. Every
    loss is a mean over the samples of the whole batch (He et al. 2017, section 3).

    Args:
      model: the detector.
      batch: a batch with the fields above.
      key: key of the samples. The same key draws the same samples.

    Raises:
      InputError: for a batch that lacks a field.
    """
    heads = {"masks": model.mask_head, "keypoints": model.keypoint_head}
    needed = (*FIELDS, *(name for name, head in heads.items() if head is not None))
    if missing := [name for name in needed if name not in batch]:
        raise InputError(f"the batch has no {', '.join(missing)}; it needs {', '.join(needed)}")
    return loss_of_features(model, model.features(batch["images"], batch["sizes"]), batch, key)


def loss_of_features(
    model: MaskRCNN, out: dict[str, Array], batch: Batch, key: Key[Array, ""]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Returns the same as `loss`. `out` is the result of `MaskRCNN.features` for the images of the batch."""
    boxes, dropped = truth(*(batch[name] for name in ("boxes", "classes", "crowd", "valid", "sizes")))
    rpn_key, roi_key = jax.random.split(key)
    anchors, anchor_sample, anchor_boxes = sample_anchors(model, out, batch["sizes"], boxes, rpn_key)
    objectness, deltas = (jnp.concatenate([out[f"{n}_P{i}"] for i in range(2, 7)], 1) for n in ("objectness", "deltas"))
    losses = rpn_losses(objectness, deltas, anchors, anchor_sample, anchor_boxes, model.config.rpn_beta)
    rois = sample_proposals(model, out, batch["sizes"], boxes, roi_key)
    losses |= box_losses(*model.classify(out, rois.boxes), rois, model.config)
    metrics = {
        "positive_anchors": (anchor_sample.positive & anchor_sample.taken).sum(),
        "positive_proposals": rois.positive.sum(),
        "boxes_without_area": dropped,
    }
    if model.mask_head is not None:
        positive = RoISample(*(a[:, : _most_positive(model.config)] for a in rois))
        logits = model.outline(out, positive.boxes, positive.classes)
        targets = mask_targets(batch["masks"], positive, logits.shape[-1])
        # The mask of an object smaller than a pixel can be empty. It does not say that the box has no object.
        drawn = _take(batch["masks"].astype(bool).any(axis=(2, 3)), positive.true)
        losses["mask_loss"] = mask_loss(logits, targets, positive.positive & drawn)
    if model.keypoint_head is not None:
        # A positive proposal adds nothing if no keypoint of its object is labelled.
        positive = RoISample(*(a[:, : _most_positive(model.config)] for a in rois))
        heatmaps, _ = model.locate(out, positive.boxes)
        true = _take(batch["keypoints"], positive.true).astype(positive.boxes.dtype)
        places, counts = heatmap_targets(true, positive.boxes, heatmaps.shape[-1])
        counts &= positive.positive[..., None]
        losses["keypoint_loss"] = keypoint_loss(heatmaps, places, counts)
        metrics["keypoints"] = counts.sum()
    total = sum(losses.values())
    return total, losses | metrics | {"loss": total}


def sample_anchors(
    model: MaskRCNN, out: dict[str, Array], sizes: Int[Array, "b 2"], boxes: Truth, key: Key[Array, ""]
) -> tuple[Float[Array, "b n 4"], Sample, Float[Array, "b k 4"]]:
    """Returns a sample of the anchors for the losses of the RPN (Ren et al. 2015, section 3.1).

    Args:
      model: the detector.
      out: the result of `MaskRCNN.features`.
      sizes: height and width of every image in pixels, without padding.
      boxes: the true boxes.
      key: key of the sample.

    Returns:
      The n anchors of all levels in pixels, the sample of k of them, and the true box of each of the k anchors.
    """
    config = model.config
    levels = model.anchors(out, sizes)
    anchors, valid = (jnp.concatenate(arrays, axis=1) for arrays in zip(*levels, strict=True))
    matched = match(
        anchors,
        valid,
        boxes,
        positive=config.rpn_positive,
        negative=config.rpn_negative,
        crowd_overlap=config.crowd_overlap,
        best_of_box=True,
    )

    def draw(key, matched):
        keys, shapes = jax.random.split(key, len(levels)), [out[f"P{i}"].shape[1:3] for i in range(2, 7)]
        numbers = [numbers_of_places(k, s, len(config.anchor_ratios)) for k, s in zip(keys, shapes, strict=True)]
        most = int(config.rpn_samples * config.rpn_positive_fraction)
        return sample(jnp.concatenate(numbers), matched, config.rpn_samples, most)

    found = jax.vmap(draw)(jax.random.split(key, len(sizes)), matched)
    return anchors, found, _take(boxes.boxes, _take(matched.box, found.index))


def sample_proposals(
    model: MaskRCNN, out: dict[str, Array], sizes: Int[Array, "b 2"], boxes: Truth, key: Key[Array, ""]
) -> RoISample:
    """Returns a sample of the proposals and true boxes of every image, for the losses of the heads.

    The boxes get no gradient. The function takes the same arguments as `sample_anchors`.
    """
    config = model.config
    proposed, _, valid = model.proposals(out, sizes, train=True)
    count = proposed.shape[1]
    proposed = jnp.concatenate([proposed, boxes.boxes.astype(proposed.dtype)], axis=1)
    valid = jnp.concatenate([valid, boxes.object], axis=1)
    matched = match(
        proposed,
        valid,
        boxes,
        positive=config.roi_positive,
        negative=config.roi_positive,
        crowd_overlap=config.crowd_overlap,
    )

    def draw(key, matched):
        numbers = numbers_of_boxes(key, count, boxes.boxes.shape[1])
        return sample(numbers, matched, config.roi_samples, _most_positive(config))

    found = jax.vmap(draw)(jax.random.split(key, len(sizes)), matched)
    true = _take(matched.box, found.index)
    return RoISample(
        jnp.where(found.taken[..., None], _take(proposed, found.index), 0),
        _take(boxes.classes, true),
        _take(boxes.boxes, true),
        true,
        found.positive,
        found.taken,
    )


def rpn_losses(
    objectness: Float[Array, "b n"],
    deltas: Float[Array, "b n 4"],
    anchors: Float[Array, "b n 4"],
    found: Sample,
    targets: Float[Array, "b k 4"],
    beta: float,
) -> dict[str, Float[Array, ""]]:
    """Returns the cross-entropy of the sampled anchors, and the smooth L1 of the deltas of positive samples.

    Both are sums, divided by the number of samples (Ren et al. 2015, equation 1).

    Args:
      objectness: logits of n anchors.
      deltas: deltas of n anchors.
      anchors: boxes in pixels.
      found: the sample of k anchors.
      targets: the true box of each of the k anchors, in pixels.
      beta: the distance at which the smooth L1 turns from a square into a line.
    """
    count = jnp.maximum(found.taken.sum(), 1).astype(objectness.dtype)
    scores = _take(objectness, found.index)
    entropy = jnp.where(found.taken, _binary_cross_entropy(scores, found.positive), 0).sum() / count
    positive = found.positive & found.taken
    distance = _box_distance(
        _take(deltas, found.index), targets, _take(anchors, found.index), positive, (1.0,) * 4, beta
    )
    return {"objectness_loss": entropy, "rpn_box_loss": distance.sum() / count}


def box_losses(
    logits: Float[Array, "b n k1"], deltas: Float[Array, "b n k1 4"], rois: RoISample, config
) -> dict[str, Float[Array, ""]]:
    """Returns the cross-entropy of the sampled proposals, and the smooth L1 of the deltas of positive samples.

    Both are sums, divided by the number of samples (Girshick 2015, section 2.3).

    Args:
      logits: logits of the background (class 0) and of k classes.
      deltas: deltas by class.
      rois: the sample of n proposals.
      config: configuration of the detector.
    """
    count = jnp.maximum(rois.taken.sum(), 1).astype(logits.dtype)
    label = jnp.where(rois.positive, rois.classes + 1, 0)
    entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits), label[..., None], axis=-1)[..., 0]
    deltas = jnp.take_along_axis(deltas, label[..., None, None], axis=2)[:, :, 0]
    distance = _box_distance(deltas, rois.targets, rois.boxes, rois.positive, config.box_weights, config.box_beta)
    return {"class_loss": jnp.where(rois.taken, entropy, 0).sum() / count, "box_loss": distance.sum() / count}


def mask_loss(
    logits: Float[Array, "b n s s"], targets: Shaped[Array, "b n s s"], positive: Bool[Array, "b n"]
) -> Float[Array, ""]:
    """Returns the mean cross-entropy of the s x s mask places of positive proposals (He et al. 2017, section 3).

    The loss is 0 if no proposal is positive. `logits` has the logits of each proposal for its class.
    """
    entropy = _binary_cross_entropy(logits, targets).mean(axis=(2, 3))
    return jnp.where(positive, entropy, 0).sum() / jnp.maximum(positive.sum(), 1).astype(logits.dtype)


def mask_targets(masks: Shaped[Array, "b g m m"], rois: RoISample, size: int) -> Bool[Array, "b n s s"]:
    """Returns the mask target of every proposal: the part of the true mask that lies in the proposal.

    The mask is interpolated between the centres of its cells. It is 0 outside its true box. A place of the target is
    true if the interpolated value is at least 1/2.

    Args:
      masks: the masks of g true boxes, as m x m cells of the true box.
      rois: the sample of n proposals.
      size: places along a side of the target, s.
    """
    dtype = rois.boxes.dtype

    def weights(low, high, start, end):
        """Returns the weights (b,n,s,m) of the m cells from start to end, for s places from low to high."""
        place = (jnp.arange(size, dtype=dtype)[None, None] + 0.5) / size
        at = low[..., None] + place * (high - low)[..., None] - start[..., None]
        side = jnp.where(end > start, end - start, 1)[..., None]
        cells = masks.shape[-1]
        at = (at / side * cells - 0.5)[..., None]
        return jnp.maximum(0, 1 - jnp.abs(at - jnp.arange(cells, dtype=dtype)[None, None, None]))

    x, y = (weights(*(a[..., k] for a in (rois.boxes, rois.targets) for k in (i, i + 2))) for i in (0, 1))
    whole = _take(masks, rois.true).astype(dtype)
    return jnp.einsum("bnpy,bnyx,bnqx->bnpq", y, whole, x) >= 0.5


def _most_positive(config) -> int:
    return max(1, int(config.roi_samples * config.roi_positive_fraction))


def _take(arrays, index):
    """Returns the rows `index` (b,k) of arrays (b,n,..), image by image."""
    return jax.vmap(lambda a, i: a[i])(arrays, index)


def _binary_cross_entropy(logits, label):
    return jax.nn.softplus(logits) - logits * label.astype(logits.dtype)


def _box_distance(deltas, targets, references, counts, weights, beta):
    """Returns the smooth L1 of deltas to the true deltas, summed over all four. It is 0 where `counts` is false."""
    # A unit box replaces a missing box, so that logarithm, quotients and their gradients are finite.
    targets, references = (jnp.where(counts[..., None], a, _unit_boxes(a)) for a in (targets, references))
    apart = jnp.abs(deltas - box_ops.encode(targets.astype(deltas.dtype), references.astype(deltas.dtype), weights))
    smooth = jnp.where(apart < beta, 0.5 * apart**2 / beta, apart - 0.5 * beta).sum(-1)
    return jnp.where(counts, smooth, 0)


def _unit_boxes(boxes):
    return jnp.broadcast_to(jnp.asarray([0, 0, 1, 1], boxes.dtype), boxes.shape)
