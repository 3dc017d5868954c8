"""Mask R-CNN: its number of parameters, padding, batches, errors and its summary."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nl_jax.errors import InputError
from nl_jax.models import DetectorConfig, MaskRCNN, ResNetConfig, flat
from nl_jax.models.detection.anchors import anchors, cell
from nl_jax.models.summary import detector_summary

RESNEXT = {"depth": 152, "groups": 32, "width_per_group": 8}
TINY = DetectorConfig(
    backbone=ResNetConfig(blocks_per_stage=(1, 1, 2, 1), width=4, norm="frozen", nonlocal_blocks={"res4": (0,)}),
    num_classes=3,
    fpn_channels=4,
    box_channels=8,
    mask_channels=4,
    anchor_sides=(8, 16, 32, 64, 128),
    pre_nms=40,
    proposals=30,
    detections=7,
    score_threshold=0.1,
)


def learnt(config):
    """Returns the parameters without those of frozen norms."""
    model = nnx.eval_shape(lambda: MaskRCNN(config, rngs=nnx.Rngs(0)))
    frozen = model.frozen_parameters()
    _, params, _ = flat.split(model)
    return sum(math.prod(a.shape) for name, a in params.items() if not (frozen and name.startswith(frozen)))


@pytest.mark.parametrize(
    "network, counts",
    [
        ({"depth": 50}, (44_401_393, 44_347_573, 44_400_693)),
        ({"depth": 101}, (63_341_297, 63_287_477, 63_392_821)),
        (RESNEXT, (140_974_833, 140_921_013, 141_216_053)),
    ],
)
def test_published_numbers_of_parameters(network, counts):
    for classes, norm, expected in ((90, "frozen", 0), (80, "frozen", 1), (80, "batch", 2)):
        config = DetectorConfig(ResNetConfig(norm=norm, **network), num_classes=classes)
        assert learnt(config) == counts[expected]


@pytest.mark.parametrize(
    "network, frozen, trained",
    [
        ({"depth": 50}, 59_137_258, 59_190_378),
        ({"depth": 101}, 78_077_162, 78_182_506),
        (RESNEXT, 155_710_698, 156_005_738),
    ],
)
def test_published_numbers_of_parameters_with_keypoints(network, frozen, trained):
    for norm, expected in (("frozen", frozen), ("batch", trained)):
        config = DetectorConfig(ResNetConfig(norm=norm, **network), num_classes=1, keypoints=17)
        assert learnt(config) == expected
    assert learnt(dataclasses.replace(config, keypoint_blocks=(2, 4, 6, 8))) == trained + 2_102_272


@pytest.mark.parametrize("norm, more", [("frozen", 2_101_760), ("batch", 2_101_760), ("none", 2_099_712)])
def test_a_block_before_the_last_residual_block_of_res4(norm, more):
    options = {"nonlocal_options": {"norm": "none"}} if norm == "none" else {}
    plain = ResNetConfig(norm="frozen" if norm == "none" else norm)
    with_block = dataclasses.replace(plain, nonlocal_blocks={"res4": (4,)}, **options)
    assert learnt(DetectorConfig(with_block)) - learnt(DetectorConfig(plain)) == more


def forward(model):
    graphdef, state = nnx.split(model)
    run = jax.jit(lambda state, images, sizes: nnx.merge(graphdef, state)(images, sizes))
    return lambda images, sizes: run(state, jnp.asarray(images, jnp.float32), jnp.asarray(sizes, jnp.int32))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, 3))


def padded(images, height, width):
    return np.pad(images, ((0, 0), (0, height - images.shape[1]), (0, width - images.shape[2]), (0, 0)))


@pytest.fixture(scope="module")
def found_of():
    """Compile the network's forward pass with random weights. The importer's test uses torchvision's weights."""
    model = MaskRCNN(TINY, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))):
        shape = variable.shape
        value = 0.1 * rng.normal(size=shape)
        if path[-1] == "kernel":
            value = rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
        elif path[-1] in ("scale", "var"):
            value = rng.uniform(0.5, 1.5, shape)
        variable.set_value(jnp.asarray(value, jnp.float32))
    model.eval()
    return forward(model)


def test_two_images_are_two_batches_of_one(found_of):
    images = padded(noise(2, 64, 96), 96, 96)
    images[1] = padded(noise(1, 96, 64, seed=1), 96, 96)[0]
    sizes = [[64, 96], [96, 64]]
    together = found_of(images, sizes)
    assert together.valid.any(1).all() and together.boxes.shape == (2, 7, 4) and together.masks.shape == (2, 7, 28, 28)
    for i in range(2):
        alone = found_of(images[i : i + 1], sizes[i : i + 1])
        for name in ("boxes", "scores", "classes", "valid", "masks"):
            np.testing.assert_allclose(getattr(together, name)[i], getattr(alone, name)[0], rtol=1e-5, atol=1e-5)
    boxes, (h, w) = np.asarray(together.boxes), np.asarray(sizes).T
    assert (boxes[..., [0, 2]] <= w[:, None, None]).all() and (boxes[..., [1, 3]] <= h[:, None, None]).all()
    exists = np.asarray(together.valid)
    assert (np.diff(together.scores, axis=1) <= 0).all() and (together.scores[exists] > 0.1).all()
    assert (together.classes[exists] < 3).all() and not together.boxes[~exists].any()


def test_what_is_in_the_padding_is_no_key_of_a_block(found_of):
    """A place of res4 far from the border sees all places only through the block."""
    images = padded(noise(1, 64, 256), 256, 256)
    other = images.copy()
    other[:, 192:] = 5 * noise(1, 64, 256, seed=2)  # far below the image, beyond the reach of convolutions
    sizes = [[64, 256]]
    a, b = (found_of(x, sizes).out for x in (images, other))
    assert np.abs(a["res4_0"][0, 0, 12:] - b["res4_0"][0, 0, 12:]).max() > 0.1
    np.testing.assert_array_equal(a["res4_0_nonlocal"][0, 0, :4], b["res4_0_nonlocal"][0, 0, :4])
    whole = [[256, 256]]
    a, b = (found_of(x, whole).out for x in (images, other))
    assert np.abs(a["res4_0_nonlocal"][0, 0, :4] - b["res4_0_nonlocal"][0, 0, :4]).max() > 1e-3


def test_what_convolutions_let_in_at_the_border_stays_there(found_of):
    """Compares an image of 128 x 256, alone and in a bucket of 256 x 256: a change over its standard deviation."""
    image = noise(1, 128, 256)
    sizes = [[128, 256]]
    alone, within = (found_of(x, sizes).out for x in (image, padded(image, 256, 256)))
    for name in ("res2_0", "res3_0", "res4_0", "P2", "P3", "P4"):
        rows = alone[name].shape[-3]
        change = np.square(within[name][..., :rows, :, :] - alone[name])
        by_row = np.sqrt(change.reshape(-1, *change.shape[-3:]).mean((0, 2, 3))) / alone[name].std()
        above = by_row[-rows // 4 : -1].mean()
        print(f"{name}: last row {by_row[-1]:.1%}, the quarter above {above:.2%}, top {by_row[0]:.3%}")
        assert by_row[-1] > by_row[: rows // 2].max()


def test_anchors():
    np.testing.assert_array_equal(
        cell(32, (0.5, 1, 2), True), [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    )
    sides = np.diff(cell(32, (0.5, 1, 2), False).reshape(3, 2, 2), axis=1)[:, 0]
    np.testing.assert_allclose(sides[:, 1] / sides[:, 0], (0.5, 1, 2), rtol=1e-6)
    np.testing.assert_allclose(sides.prod(1), 1024, rtol=1e-6)
    config = dataclasses.replace(DetectorConfig(), floor_strides=True)
    size = jnp.asarray([800, 1344])
    for level, stride in ((0, (4, 4)), (4, (61, 64))):  # 800 / 13 places
        shape = (-(-800 // 4 // 2**level), -(-1344 // 4 // 2**level))
        found, valid = anchors(level, shape, size, config)
        found = np.asarray(found).reshape(*shape, 3, 4)
        assert valid.all() and found.dtype == np.float32
        np.testing.assert_array_equal(found[5, 7] - found[0, 0], [[7 * stride[1], 5 * stride[0]] * 2] * 3)
    # The larger bucket has the same anchors, and no others are valid.
    larger, valid = anchors(4, (21, 21), size, config)
    np.testing.assert_array_equal(np.asarray(larger)[np.asarray(valid)], found.reshape(-1, 4))
    exact, _ = anchors(4, (13, 21), size, DetectorConfig())
    np.testing.assert_array_equal(np.asarray(exact).reshape(13, 21, 3, 4)[5, 7] - found[0, 0], [[448, 320] * 2] * 3)


def test_summary():
    plain = detector_summary(DetectorConfig(), (800, 1344))
    assert plain.parameters == 44_347_573
    assert plain.macs / 1e9 == pytest.approx(267.3, abs=0.1)
    by_name = {layer.name: layer for layer in plain.layers}
    places = sum(200 * 336 // 4**i for i in range(4)) + 13 * 21
    assert by_name["rpn"].macs == places * 256 * (9 * 256 + 15)
    assert by_name["box_head"].macs == 1000 * (12544 * 1024 + 1024 * (1024 + 5 * 81))
    backbone = ResNetConfig(norm="frozen", nonlocal_blocks={"res4": (4,)})
    pooled = detector_summary(DetectorConfig(backbone), (800, 1344), rois=500)
    box_head = next(layer for layer in pooled.layers if layer.name == "box_head")
    assert 2 * box_head.macs == by_name["box_head"].macs
    block = next(layer for layer in pooled.layers if layer.name == "res4_4_nonlocal")
    assert block.macs / 1e9 == pytest.approx(10.06, abs=0.01)
    whole = dataclasses.replace(backbone, nonlocal_options={"subsample": None})
    (block,) = (x for x in detector_summary(DetectorConfig(whole), (800, 1344)).layers if "nonlocal" in x.name)
    assert block.macs / 1e9 == pytest.approx(27.5, abs=0.1)
    text = str(pooled)
    assert (
        "res4_4_nonlocal: embedded_gaussian, spacetime, 1 x 50 x 84 positions of 1024 channels, each over 1050" in text
    )
    assert "Mask R-CNN (res2 x3, res3 x4, res4 x6, res5 x3), width 64, 80 classes, images of 800 x 1344" in text


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"backbone": ResNetConfig(nonlocal_options={"pairwise": "gaussian"})}, "no residual block to follow"),
        (
            {"backbone": ResNetConfig(nonlocal_blocks={"res4": (6,)})},
            "residual block 6 of res4, which has blocks 0 to 5",
        ),
        ({"backbone": ResNetConfig(inflate="3x1x1")}, "inflate='3x1x1' reaches over time"),
        ({"backbone": ResNetConfig(blocks_per_stage=(1, 1))}, "stages res2, res3; a pyramid needs res2 to res5"),
        ({"backbone": ResNetConfig(freeze_at=6)}, "freeze_at=6 is out of range; choose 0 to 5"),
        ({"backbone": ResNetConfig(norm_epsilon=-1.0)}, "norm_epsilon=-1.0 is out of range"),
        ({"backbone": ResNetConfig(width=4, groups=4, width_per_group=8)}, "leaves no channels"),
        ({"num_classes": 0}, "num_classes=0 is out of range; choose 1 or more"),
        ({"rpn_nms": 1.5}, "rpn_nms=1.5 is out of range; choose 0 to 1"),
        ({"rpn_negative": 0.8}, "rpn_negative=0.8 is above rpn_positive=0.7"),
        ({"anchor_sides": (32, 64)}, "must be 5 numbers, one for each of P2 to P6"),
        ({"anchor_ratios": (0.5, -1.0)}, "must be numbers above 0"),
        ({"box_beta": 0.0}, "box_beta=0.0 is out of range"),
        ({"keypoints": -1}, "keypoints=-1 is out of range; choose 0 or more"),
        ({"keypoints": 17, "keypoint_blocks": (0, 2)}, "keypoint_blocks=(0, 2) must be different numbers of 1 to 8"),
        ({"keypoints": 17, "keypoint_blocks": (2, 2)}, "keypoint_blocks=(2, 2) must be different numbers of 1 to 8"),
        ({"keypoint_blocks": (2,)}, "a detector with keypoints=0 has no keypoint head for them"),
        ({"keypoints": 17, "keypoint_options": {"scale": None}}, "keypoint_blocks is empty"),
        ({"keypoints": 17, "keypoint_channels": 0}, "keypoint_channels=0 is out of range"),
    ],
)
def test_a_choice_that_does_not_exist(fields, message):
    with pytest.raises(InputError, match=re.escape(message)):
        MaskRCNN(dataclasses.replace(DetectorConfig(), **fields), rngs=nnx.Rngs(0))


def test_sides_that_32_does_not_divide():
    model = nnx.eval_shape(lambda: MaskRCNN(TINY, rngs=nnx.Rngs(0)))
    with pytest.raises(InputError, match="images of 64 x 100 pixels: both sides must be multiples of 32"):
        model.features(jnp.zeros((1, 64, 100, 3)), jnp.asarray([[64, 100]]))
    with pytest.raises(InputError, match="gives features and no logits"):
        model.backbone(jnp.zeros((1, 1, 64, 96, 3)))


def test_importing_models_is_light():
    import subprocess
    import sys

    code = (
        "import sys, nl_jax.models; print(*{'grain', 'av', 'scipy', 'torch', 'matplotlib', 'orbax'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not found.stdout.strip()
