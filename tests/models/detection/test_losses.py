"""Matching, sampling and the losses: equal to plain loops, deterministic, and independent of padding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nl_jax.errors import InputError
from nl_jax.models import DetectorConfig, MaskRCNN, ResNetConfig, flat
from nl_jax.models.detection import losses
from nl_jax.models.detection.sampling import Match, Truth, match, sample, truth

CONFIG = DetectorConfig(
    backbone=ResNetConfig(
        blocks_per_stage=(1, 1, 2, 1), width=4, norm="frozen", freeze_at=2, nonlocal_blocks={"res4": (0,)}
    ),
    num_classes=3,
    fpn_channels=4,
    box_channels=8,
    mask_channels=4,
    anchor_sides=(8, 16, 32, 64, 128),
    train_pre_nms=40,
    train_proposals=30,
    rpn_samples=24,
    roi_samples=16,
    roi_positive_fraction=0.5,
)


def batch_of(height=96, width=128, true=5, padded_true=8, seed=0, sizes=((64, 96), (96, 64))):
    """Returns two images with five true boxes each, in a bucket of this size."""
    rng = np.random.default_rng(seed)
    sizes = np.asarray(sizes)
    images = np.zeros((2, height, width, 3))
    for image, (h, w) in zip(images, sizes, strict=True):
        image[:h, :w] = rng.normal(size=(h, w, 3))
    side = rng.uniform(10, 40, (2, true, 2))
    corner = rng.uniform(0, 1, (2, true, 2)) * (sizes[:, None, ::-1] - side)
    fields = {
        "boxes": np.concatenate([corner, corner + side], axis=-1),
        "classes": rng.integers(0, 3, (2, true)),
        "crowd": np.zeros((2, true), bool),
        "valid": np.ones((2, true), bool),
        "masks": rng.uniform(size=(2, true, 112, 112)) < 0.5,
    }
    fields = {k: np.pad(v, ((0, 0), (0, padded_true - true)) + ((0, 0),) * (v.ndim - 2)) for k, v in fields.items()}
    fields |= {"images": images, "sizes": sizes}
    return {k: jnp.asarray(v, {"f": jnp.float32, "i": jnp.int32}.get(v.dtype.kind)) for k, v in fields.items()}


@pytest.fixture(scope="module")
def model():
    """Returns a model with the weights of no new network, so that every part has a gradient."""
    model = MaskRCNN(CONFIG, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if path[-1] == "kernel":
            value = rng.normal(size=variable.shape) / np.sqrt(np.prod(variable.shape[:-1]))
        else:
            value = rng.uniform(0.1, 0.5, variable.shape)
        variable.set_value(jnp.asarray(value, jnp.float32))
    return model


@pytest.fixture(scope="module")
def run(model):
    """Returns a function (batch, key) -> metrics and gradients, compiled once for every shape."""
    graphdef, params, stats = flat.split(model)

    def of(params, batch, key):
        return losses.loss(flat.merge(graphdef, params, stats), batch, key)

    step = jax.jit(jax.grad(of, has_aux=True))
    return step, lambda batch, key=0: step(params, batch, jax.random.key(key))


def test_losses_and_what_gets_a_gradient(run, model):
    gradients, metrics = run[1](batch_of())
    parts = ("objectness_loss", "rpn_box_loss", "class_loss", "box_loss", "mask_loss")
    assert all(metrics[name] > 0 for name in parts)
    np.testing.assert_allclose(metrics["loss"], sum(metrics[name] for name in parts), rtol=1e-6)
    assert metrics["positive_proposals"] >= 10 and metrics["positive_anchors"] >= 5  # a true box is a proposal
    frozen = model.frozen_parameters()
    for name, gradient in gradients.items():
        assert np.isfinite(gradient).all(), name
        assert gradient.any() != name.startswith(frozen), name
    assert {"backbone/conv1/", "backbone/res2/", "backbone/res3/0/norm1/"} <= set(frozen)


def test_the_same_key_draws_the_same_samples(run):
    batch = batch_of()
    (first, a), (again, b), (_, other) = run[1](batch), run[1](batch), run[1](batch, key=1)
    assert all((first[name] == again[name]).all() for name in first)
    assert a["loss"] == b["loss"] != other["loss"]


def test_more_padded_boxes_change_nothing(run):
    """The results are equal bit for bit, whatever the padded boxes contain."""
    few, many = batch_of(), batch_of(padded_true=11)
    many["boxes"] = many["boxes"].at[:, 5:].set(jnp.asarray([3.0, 3, 50, 50]))
    many["masks"] = many["masks"].at[:, 5:].set(True)
    a, b = run[1](few), run[1](many)
    for found, expected in zip(jax.tree.leaves(a[1]), jax.tree.leaves(b[1]), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_box_without_area_is_dropped_and_counted(run):
    batch = batch_of()
    without = batch | {"valid": batch["valid"].at[0, 2].set(False)}
    flat_box = batch | {"boxes": batch["boxes"].at[0, 2].set(jnp.asarray([20.0, 30, 50, 30]))}
    outside = batch | {"boxes": batch["boxes"].at[0, 2].set(jnp.asarray([100.0, 10, 120, 40]))}  # inside the padding
    expected = run[1](without)[1]
    assert expected["boxes_without_area"] == 0
    for changed in (flat_box, outside):
        metrics = run[1](changed)[1]
        assert metrics["boxes_without_area"] == 1
        assert metrics["loss"] == expected["loss"] and np.isfinite(metrics["loss"])


def test_an_empty_mask_has_no_part_in_the_loss(run):
    batch = batch_of()
    masks = batch["masks"].at[:].set(False)
    some = run[1](batch | {"masks": masks.at[0].set(True)})[1]
    none = run[1](batch | {"masks": masks})[1]
    assert none["mask_loss"] == 0 < some["mask_loss"] and none["class_loss"] == some["class_loss"]


def test_images_without_any_box(run):
    batch = batch_of()
    for valid in (jnp.zeros_like(batch["valid"]), batch["valid"].at[0].set(False)):
        gradients, metrics = run[1](batch | {"valid": valid})
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradients, metrics)))
    gradients, metrics = run[1](batch | {"valid": jnp.zeros_like(batch["valid"])})
    assert not any(metrics[name] for name in ("mask_loss", "box_loss", "rpn_box_loss", "positive_anchors"))
    assert metrics["objectness_loss"] > 0 and metrics["class_loss"] > 0


def in_larger_bucket(out, height, width, fill):
    """Adds places to the feature maps, below and on the right."""
    result = {"sizes": out["sizes"]}
    for i, stride in zip(range(2, 7), (4, 8, 16, 32, 64), strict=True):
        b, h, w, _ = out[f"P{i}"].shape
        margin = ((0, 0), (0, -(-height // stride) - h), (0, -(-width // stride) - w), (0, 0))
        for name in (f"P{i}", f"objectness_P{i}", f"deltas_P{i}"):
            array = out[name].reshape(b, h, w, -1)
            new = jnp.pad(array, margin, constant_values=fill)
            result[name] = new if name[0] == "P" else new.reshape(b, -1, *out[name].shape[2:])
    return result


def test_a_larger_bucket_changes_nothing_where_feature_maps_are_the_same(model):
    small, large = batch_of(96, 96), batch_of(160, 224)
    out = model.features(small["images"], small["sizes"])
    step = jax.jit(lambda out, batch: losses.loss_of_features(model, out, batch, jax.random.key(3))[1])
    # The smaller bucket has nothing of the padding either.
    expected = step(in_larger_bucket(out, 96, 128, 7.0), small)
    found = step(in_larger_bucket(out, 160, 224, 9.0), large)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_not_one_compilation_more(run):
    step, call = run
    call(batch_of(96, 128)), call(batch_of(128, 96, sizes=((96, 64), (128, 96))))
    before = step._cache_size()
    for seed in range(25):
        call(batch_of(96, 128, true=seed % 8, seed=seed), key=seed)
        call(batch_of(128, 96, true=seed % 5, seed=seed, sizes=((96 - seed, 64), (128, 96 - seed))), key=seed)
    assert step._cache_size() == before


def test_matching():
    """Compares with a loop over all pairs."""
    rng = np.random.default_rng(0)
    side = rng.uniform(10, 60, (60, 2))
    corner = rng.uniform(0, 60, (60, 2))
    boxes = np.concatenate([corner, corner + side], axis=1).astype(np.float32)
    true, crowd = boxes[[0, 1, 2]] + np.float32(2.5), np.asarray([False, False, True])
    true = np.concatenate([true, boxes[[30]], [[500, 500, 540, 540]]]).astype(np.float32)
    exists = np.asarray([True, True, True, False, True])  # one padded; one that nothing overlaps
    is_crowd = np.asarray([*crowd, False, False])
    valid = np.arange(60) != 5
    targets = Truth(true[None], np.zeros((1, 5), np.int32), (exists & ~is_crowd)[None], (exists & is_crowd)[None])
    found = match(
        *map(jnp.asarray, (boxes[None], valid[None])),
        jax.tree.map(jnp.asarray, targets),
        positive=0.7,
        negative=0.3,
        crowd_overlap=0.6,
        best_of_box=True,
    )

    def shared(a, b):
        return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)

    def size(a):
        return (a[2] - a[0]) * (a[3] - a[1])

    objects = [i for i in range(5) if exists[i] and not is_crowd[i]]
    iou = {
        (n, i): shared(boxes[n], true[i]) / (size(boxes[n]) + size(true[i]) - shared(boxes[n], true[i]))
        for n in range(60)
        for i in objects
    }
    best_of = {i: max(iou[n, i] for n in range(60) if valid[n]) for i in objects}
    kinds = set()
    for n in range(60):
        best = max(iou[n, i] for i in objects)
        positive = valid[n] and (best >= 0.7 or any(iou[n, i] == best_of[i] > 0 for i in objects))
        in_crowd = shared(boxes[n], true[2]) / size(boxes[n])
        negative = valid[n] and not positive and best < 0.3 and in_crowd < 0.6
        kinds.add((positive, negative, best < 0.3))
        assert (bool(found.positive[0, n]), bool(found.negative[0, n])) == (positive, negative), n
        if positive:
            assert iou[n, int(found.box[0, n])] == best
    assert {(True, False, False), (False, True, True), (False, False, True), (False, False, False)} <= kinds


@pytest.mark.parametrize("positive, negative", [(50, 50), (3, 50), (50, 3), (2, 2), (0, 0)])
def test_sampling(positive, negative):
    kinds = np.zeros(100, int)
    kinds[:positive], kinds[positive : positive + negative] = 1, 2
    kinds = np.random.default_rng(0).permutation(kinds)
    random = 1 - np.random.default_rng(1).uniform(size=100).astype(np.float32)
    matched = Match(*map(jnp.asarray, (kinds == 1, kinds == 2, np.zeros(100, int))))
    found = jax.tree.map(np.asarray, sample(jnp.asarray(random), matched, 20, 5))
    positives = min(positive, 5)
    negatives = min(negative, 20 - positives)
    assert found.taken.sum() == positives + negatives and found.positive.sum() == positives
    assert found.positive[:positives].all() and found.taken[: positives + negatives].all()
    index = found.index[found.taken]
    assert len(set(index)) == len(index)
    assert (kinds[index] == np.where(found.positive[found.taken], 1, 2)).all()
    largest = np.sort(random[kinds == 1])[::-1][:positives]
    np.testing.assert_array_equal(random[index[:positives]], largest)


def test_mask_targets():
    """Compares with a check of every place: is the mask there, interpolated between the centres of its cells?"""
    rng = np.random.default_rng(0)
    masks = rng.uniform(size=(1, 2, 112, 112)) < 0.5
    true = np.asarray([[[10, 20, 50, 60], [30, 10, 90, 100]]], np.float32)
    boxes = np.asarray([[[12.3, 25.1, 47.9, 69.7], [5.2, 15.1, 54.7, 65.3], [30.7, 10.3, 89.1, 99.2]]], np.float32)
    index = np.asarray([[0, 0, 1]])
    rois = losses.RoISample(boxes, index, true[:, index[0]], index, np.ones((1, 3), bool), np.ones((1, 3), bool))
    found = losses.mask_targets(jnp.asarray(masks), jax.tree.map(jnp.asarray, rois), 14)
    close = 0
    for n in range(3):
        box, of = boxes[0, n], true[0, index[0, n]]
        for row, column in np.ndindex(14, 14):
            x, y = box[:2] + (np.asarray([column, row]) + 0.5) / 14 * (box[2:] - box[:2])
            at = (np.asarray([y, x]) - of[[1, 0]]) / (of[[3, 2]] - of[[1, 0]]) * 112 - 0.5
            low = np.floor(at).astype(int)
            value = 0.0
            for i, j in np.ndindex(2, 2):
                cell = low + np.asarray([i, j])
                if (cell >= 0).all() and (cell < 112).all():
                    value += masks[0, index[0, n]][tuple(cell)] * np.prod(1 - np.abs(at - cell))
            if abs(value - 0.5) < 1e-3:
                close += 1
                continue
            assert bool(found[0, n, row, column]) == (value > 0.5)
    assert close < 20 and 0.2 < found[0, 2].mean() < 0.8
    assert not found[0, 1, :, -1].any()  # outside the true box


def test_truth_is_clipped_to_its_image():
    boxes = jnp.asarray([[[-5.0, 5, 30, 80], [70, 5, 90, 20]]])
    exists = jnp.ones((1, 2), bool)
    found, dropped = truth(boxes, jnp.zeros((1, 2), jnp.int32), exists & False, exists, jnp.asarray([[60, 64]]))
    np.testing.assert_array_equal(found.boxes[0, 0], [0, 5, 30, 60])
    np.testing.assert_array_equal(found.object, [[True, False]])
    assert dropped == 1


def test_a_batch_that_lacks_a_field(model):
    batch = batch_of()
    del batch["masks"], batch["crowd"]
    with pytest.raises(InputError, match="the batch has no crowd, masks; it needs images, sizes, boxes"):
        losses.loss(model, batch, jax.random.key(0))
    without = nnx.eval_shape(lambda: MaskRCNN(dataclasses.replace(CONFIG, masks=False), rngs=nnx.Rngs(0)))
    with pytest.raises(InputError, match="no crowd; it needs"):
        losses.loss(without, batch, jax.random.key(0))
