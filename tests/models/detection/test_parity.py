"""Every intermediate, loss and gradient of the imported network equals torchvision's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nl_jax import weights
from nl_jax.models import DetectorConfig, MaskRCNN, ResNetConfig, flat
from nl_jax.models.detection import keypoint_head, losses
from nl_jax.models.detection.sampling import Sample
from nl_jax.weights import detector


def load_oracle():
    import importlib.util
    from pathlib import Path

    spec = importlib.util.spec_from_file_location("detection_oracle", Path(__file__).parent / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


oracle = load_oracle()


def config_of(network, dtype="float32", **fields):
    blocks, groups, width_per_group = oracle.NETWORKS[network]
    backbone = ResNetConfig(
        blocks_per_stage=blocks,
        width=oracle.WIDTH,
        groups=groups,
        width_per_group=width_per_group,
        norm="frozen",
        dtype=dtype,
        **fields,
    )
    limits = dict(oracle.LIMITS)
    return DetectorConfig(
        backbone=backbone,
        num_classes=oracle.CLASSES,
        fpn_channels=oracle.FPN_CHANNELS,
        box_channels=oracle.BOX_CHANNELS,
        mask_channels=oracle.MASK_CHANNELS,
        keypoints=oracle.KEYPOINTS if network == "keypoint" else 0,
        keypoint_channels=oracle.KEYPOINT_CHANNELS,
        anchor_sides=oracle.ANCHOR_SIDES,
        floor_strides=True,
        train_pre_nms=limits["pre_nms"],
        train_proposals=limits["proposals"],
        box_beta=1 / 9,
        **limits,
    )


def network_of(network, reference, checkpoint, dtype="float32", **fields):
    model = MaskRCNN(config_of(network, dtype, **fields), rngs=nnx.Rngs(0))
    report = weights.load(model, checkpoint(network, reference), "torchvision")
    assert not report.left_at_init and not report.unused
    if dtype == "float64":
        for _, variable in nnx.to_flat_state(nnx.state(model)):
            variable.set_value(variable[...].astype(jnp.float64))
    model.eval()
    return model


def forward(model, images, sizes):
    graphdef, state = nnx.split(model)
    return jax.jit(lambda state, *arguments: nnx.merge(graphdef, state)(*arguments))(state, images, sizes)


def inputs(size, dtype):
    h, w = oracle.SIZES[size]
    return jnp.asarray(oracle.images((h, w)), dtype), jnp.asarray([[h, w]] * 2)


def outputs(found):
    """Returns the outputs by the names of the reference."""
    arrays = found.out | found._asdict() | {"out": None}
    assert found.valid.all() and found.out["proposal_valid"].all()
    return {name: np.asarray(value) for name, value in arrays.items() if value is not None and name != "valid"}


def assert_outputs(found, reference, tolerance):
    """Compares outputs in the order they are computed. The error names the first that differs."""
    arrays = oracle.kept(outputs(found), 60)
    names = [name for name in reference if name in arrays]
    assert len(names) == 5 + 10 + 2 + (5 if "keypoints" in names else 4)
    for name in names:
        # Keypoints need to agree to a hundredth of a pixel.
        close = {"rtol": 0, "atol": 1e-2} if name == "keypoints" else {"rtol": tolerance, "atol": tolerance}
        np.testing.assert_allclose(arrays[name], reference[name], err_msg=name, **close)


# Each network and each size in float32 and in float64. All twelve pairs hold for both tests.
CASES = [
    ("r50", "wide", "float32"),
    ("resnext", "high", "float32"),
    ("r50", "high", "float64"),
    ("resnext", "wide", "float64"),
    ("keypoint", "wide", "float32"),
]
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}


def reference_of(network, size):
    with np.load(oracle.FIXTURES / f"{network}_{size}.npz") as file:
        return dict(file)


@pytest.mark.parametrize("network, size, dtype", CASES)
def test_every_intermediate(network, size, dtype, checkpoint):
    reference, tolerance = reference_of(network, size), TOLERANCE[dtype]
    with jax.enable_x64(dtype == "float64"):
        found = forward(network_of(network, reference, checkpoint, dtype), *inputs(size, dtype))
        assert_outputs(found, reference, tolerance)
        assert found.boxes.dtype == found.out["P2"].dtype == dtype


def forced(reference):
    """Returns torchvision's samples in our form: positive ones first, as many places as both images have."""
    count = oracle.LIMITS["rpn_samples"]
    index, positive, taken = (np.zeros((2, count), kind) for kind in (np.int32, bool, bool))
    for image in range(2):
        both = [reference[name][reference[name][:, 0] == image, 1] for name in ("rpn_positive", "rpn_negative")]
        used = sum(map(len, both))
        index[image, :used] = np.concatenate(both)
        positive[image, : len(both[0])] = True
        taken[image, :used] = True
    return Sample(*map(jnp.asarray, (index, positive, taken)))


def rois_of(reference, boxes, classes, dtype):
    """Returns the proposals that torchvision sampled, positive ones first."""
    rows = []
    for image in range(2):
        order = np.argsort(reference[f"labels/{image}"] == 0, kind="stable")
        label, true = (reference[f"{name}/{image}"][order] for name in ("labels", "matched"))
        at = reference[f"rois/{image}"][order]
        assert len(order) == oracle.LIMITS["roi_samples"]
        rows.append((at, classes[image][true], boxes[image][true], true, label > 0, label >= 0))
    arrays = [np.stack(column) for column in zip(*rows, strict=True)]
    kinds = (dtype, jnp.int32, dtype, jnp.int32, bool, bool)
    return losses.RoISample(*(jnp.asarray(a, kind) for a, kind in zip(arrays, kinds, strict=True)))


@pytest.mark.parametrize("network, size, dtype", [*CASES[1:3], ("keypoint", "high", "float64")])
def test_losses_and_gradients_with_its_samples(network, size, dtype, checkpoint):
    reference, tolerance = reference_of(network, size), TOLERANCE[dtype]
    with jax.enable_x64(dtype == "float64"):
        model = network_of(network, reference, checkpoint, dtype)
        images, sizes = inputs(size, dtype)
        boxes, classes = oracle.truth(oracle.SIZES[size])
        anchor_sample, rois = forced(reference), rois_of(reference, boxes, classes, dtype)
        anchor_boxes = _matched(model, images, sizes, jnp.asarray(boxes, dtype), anchor_sample)
        most = int(rois.positive.sum(1).max())
        masks = np.zeros((2, most, 28, 28), bool)
        start = 0
        for image, count in enumerate(np.asarray(rois.positive.sum(1))):
            masks[image, :count] = oracle.mask_bits(start + count)[start:]
            start += count
        graphdef, params, stats = flat.split(model)

        def loss(params):
            model = flat.merge(graphdef, params, stats)
            out = model.features(images, sizes)
            anchors = jnp.concatenate([a for a, _ in model.anchors(out, sizes)], axis=1)
            objectness, deltas = (
                jnp.concatenate([out[f"{name}_P{i}"] for i in range(2, 7)], axis=1) for name in ("objectness", "deltas")
            )
            found = losses.rpn_losses(objectness, deltas, anchors, anchor_sample, anchor_boxes, 1 / 9)
            found |= losses.box_losses(*model.classify(out, rois.boxes), rois, model.config)
            if network == "keypoint":
                found["keypoint_loss"] = _keypoint_loss(model, out, rois, boxes)
            else:
                logits = model.outline(out, rois.boxes[:, :most], rois.classes[:, :most])
                found["mask_loss"] = losses.mask_loss(logits, jnp.asarray(masks), rois.positive[:, :most])
            return sum(found.values()), found

        gradients, found = jax.jit(jax.grad(loss, has_aux=True))(params)
    names = {"objectness": "objectness_loss", "rpn_box_reg": "rpn_box_loss", "classifier": "class_loss"}
    head = "keypoint" if network == "keypoint" else "mask"
    names |= {"box_reg": "box_loss", head: f"{head}_loss"}
    for theirs, ours in names.items():
        # torchvision's objectness loss is float32 in every network.
        exact = 1e-6 if theirs == "objectness" else min(tolerance, 1e-5)
        np.testing.assert_allclose(found[ours], reference[f"loss/loss_{theirs}"], rtol=max(exact, 1e-9), err_msg=ours)
    to_ours = detector.SOURCES["torchvision"].to_ours()
    by_name = [name for name in reference if name.startswith("gradient/")]
    assert len(by_name) > 40
    to_theirs = detector.SOURCES["torchvision"].to_theirs()
    theirs = {to_theirs(n): detector._to_torch(n, np.asarray(g), model.config) for n, g in gradients.items()}
    for name in by_name:
        key = name.removeprefix("gradient/")
        assert to_ours(key)
        # float32 labels enter torchvision's gradients. The gradient of a bias that all places of a softmax share is 0.
        atol = max(tolerance, 1e-7) * np.abs(theirs[key]).max() + 1e-15
        np.testing.assert_allclose(
            oracle.some_of(key, theirs[key], 6),
            reference[name],
            rtol=1e-3 if dtype == "float32" else 1e-6,
            atol=atol,
            err_msg=key,
        )


def _keypoint_loss(model, out, rois, boxes):
    """Returns the loss of the positive proposals."""
    heatmaps, _ = model.locate(out, rois.boxes)
    true = jnp.asarray(oracle.keypoints(boxes), rois.boxes.dtype)[jnp.arange(2)[:, None], rois.true]
    places, counts = keypoint_head.heatmap_targets(true, rois.boxes, 56)
    return keypoint_head.keypoint_loss(heatmaps, places, counts & rois.positive[..., None])


def _matched(model, images, sizes, boxes, found):
    """Returns the true box that each sampled anchor overlaps most."""
    from nl_jax.ops.boxes import iou

    strides = zip(range(2, 7), (4, 8, 16, 32, 64), strict=True)
    shapes = {f"P{i}": jnp.zeros((2, -(-images.shape[1] // s), -(-images.shape[2] // s), 1)) for i, s in strides}
    anchors = jnp.concatenate([a for a, _ in model.anchors(shapes, sizes)], axis=1).astype(boxes.dtype)
    best = jax.vmap(lambda a, b: iou(a, b).argmax(1))(anchors, boxes)
    return jax.vmap(lambda b, at, i: b[at[i]])(boxes, best, found.index)


def test_torchvision_itself_with_batch_norm_and_other_images(tmp_path):
    """Where torchvision is installed, written files load there, and its outputs equal the files of this folder."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    theirs = oracle.build("r50", frozen=False, dtype="float32")
    model = MaskRCNN(config_of("r50"), rngs=nnx.Rngs(0))
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    assert not weights.load(model, tmp_path / "theirs.pth", "torchvision").left_at_init
    model.eval()
    images = oracle.images((128, 192), seed=5)
    found = forward(model, jnp.asarray(images, jnp.float32), jnp.asarray([[128, 192]] * 2))
    expected = oracle.evaluate(theirs, images)
    arrays = outputs(found)
    for name, array in expected.items():
        np.testing.assert_allclose(arrays[name], array, rtol=1e-4, atol=1e-4, err_msg=name)

    weights.save(model, tmp_path / "ours.pth")
    frozen = oracle.build("r50")
    frozen.load_state_dict(torch.load(tmp_path / "ours.pth"), strict=True)
    reference = reference_of("r50", "wide")
    again = oracle.kept(oracle.evaluate(frozen, oracle.images(oracle.SIZES["wide"])), 60)
    for name, array in again.items():
        np.testing.assert_allclose(array, reference[name], rtol=1e-9, atol=1e-9, err_msg=name)
