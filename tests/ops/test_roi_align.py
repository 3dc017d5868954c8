"""RoIAlign against a loop over every sample of every bin, and against torchvision where it is installed."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nl_jax.ops import devices
from nl_jax.ops.roi_align import levels, roi_align, roi_align_pyramid

# In an image of 64 x 80: inside, over every border, outside, tiny, huge, without area, on whole pixels.
BOXES = np.asarray(
    [
        [10.3, 12.7, 40.1, 50.9],
        [-20, -10, 15, 20],
        [60, 50, 100, 90],
        [200, 200, 240, 260],
        [-90, -90, -50, -60],
        [30.2, 20.1, 30.6, 20.9],
        [-100, -90, 180, 150],
        [20, 20, 20, 20],
        [8, 16, 24, 48],
        [0, 0, 80, 64],
        [78.5, 62.9, 79.9, 63.9],
    ],
    np.float32,
)


def naive(features, boxes, scale, size, samples, aligned):
    """Returns the values, and the weight of every place of the map for every bin (n,s,s,h,w)."""
    h, w, _ = features.shape
    weights = np.zeros((len(boxes), size, size, h, w))
    for n, box in enumerate(np.asarray(boxes, np.float64)):
        x0, y0, x1, y1 = box * scale - (0.5 if aligned else 0)
        width, height = (x1 - x0, y1 - y0) if aligned else (max(x1 - x0, 1), max(y1 - y0, 1))
        for row, column, i, j in np.ndindex(size, size, samples, samples):
            y = y0 + height * (row + (i + 0.5) / samples) / size
            x = x0 + width * (column + (j + 0.5) / samples) / size
            if y < -1 or y > h or x < -1 or x > w:
                continue
            y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
            top, left = math.floor(y), math.floor(x)
            for at_y, part_y in ((top, top + 1 - y), (min(top + 1, h - 1), y - top)):
                for at_x, part_x in ((left, left + 1 - x), (min(left + 1, w - 1), x - left)):
                    weights[n, row, column, at_y, at_x] += part_y * part_x / samples**2
    return np.einsum("npqhw,hwc->npqc", weights, features), weights


@pytest.mark.parametrize("form", ["gather", "einsum"])
@pytest.mark.parametrize("samples, size, aligned", [(1, 7, False), (2, 7, True), (2, 14, False), (1, 14, True)])
def test_value_and_gradient(form, samples, size, aligned):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(16, 20, 3)).astype(np.float32)
    expected, weights = naive(features, BOXES, 0.25, size, samples, aligned)
    assert expected[[0, 1, 2]].any((1, 2, 3)).all() and not expected[3:5].any()
    found, pull = jax.vjp(
        lambda f, b: roi_align(f, b, 0.25, size, samples, aligned, form), jnp.asarray(features), jnp.asarray(BOXES)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    cotangent = rng.normal(size=expected.shape).astype(np.float32)
    dfeatures, dboxes = pull(jnp.asarray(cotangent))
    np.testing.assert_allclose(dfeatures, np.einsum("npqhw,npqc->hwc", weights, cotangent), atol=2e-5)
    assert not dboxes.any()


def pyramid(c=3, b=2):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(b, 256 // s, 320 // s, c)), jnp.float32) for s in (4, 8, 16)]


def boxes_of_all_sizes(b=2, n=30):
    rng = np.random.default_rng(1)
    centre, side = rng.uniform(0, 256, (b, n, 2)), np.exp(rng.uniform(np.log(10), np.log(400), (b, n, 2)))
    return np.concatenate([centre - side / 2, centre + side / 2], axis=-1).astype(np.float32)


@pytest.mark.parametrize("form", ["gather", "einsum"])
@pytest.mark.parametrize("split", [False, True])  # True: images may lie on different devices
def test_pyramid(form, split, monkeypatch):
    monkeypatch.setattr(devices, "partitioned", lambda: split)
    features, boxes, scales = pyramid(), boxes_of_all_sizes(), (1 / 4, 1 / 8, 1 / 16)
    exact = 4 + np.log2(np.sqrt(np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)) / 224)
    level = np.clip(np.floor(exact), 2, 4).astype(int) - 2
    assert set(level.ravel()) == {0, 1, 2}
    np.testing.assert_array_equal(levels(jnp.asarray(boxes), scales), level)
    found, pull = jax.vjp(lambda f: roi_align_pyramid(f, jnp.asarray(boxes), scales, 7, form=form), features)
    cotangent = np.random.default_rng(2).normal(size=found.shape).astype(np.float32)
    (gradient,) = pull(jnp.asarray(cotangent))
    for i, (f, df, scale) in enumerate(zip(features, gradient, scales, strict=True)):
        for image in range(2):
            here = level[image] == i
            expected, weights = naive(np.asarray(f[image]), boxes[image, here], scale, 7, 2, False)
            np.testing.assert_allclose(found[image, here], expected, atol=3e-5)
            np.testing.assert_allclose(
                df[image], np.einsum("npqhw,npqc->hwc", weights, cotangent[image, here]), atol=1e-4
            )


def test_float64_and_bfloat16():
    with jax.enable_x64(True):
        features = np.random.default_rng(0).normal(size=(16, 20, 3))
        expected, _ = naive(features, BOXES, 0.25, 7, 2, True)
        found = roi_align(jnp.asarray(features), jnp.asarray(BOXES, jnp.float64), 0.25, 7, 2, True)
        np.testing.assert_allclose(found, expected, atol=1e-12)
    assert roi_align(jnp.ones((4, 4, 1), jnp.bfloat16), jnp.asarray(BOXES), 0.25, 7).dtype == jnp.bfloat16


def test_what_is_no_number_reads_no_other_memory():
    boxes = np.full((1, 4), np.nan, np.float32)
    assert np.asarray(roi_align(jnp.ones((4, 4, 1)), jnp.asarray(boxes), 1.0, 7, form="gather")).shape == (1, 7, 7, 1)


def test_errors():
    with pytest.raises(ValueError, match="form='scatter' is unknown; choose one of gather, einsum"):
        roi_align(jnp.ones((4, 4, 1)), jnp.asarray(BOXES), 1.0, 7, form="scatter")
    with pytest.raises(ValueError, match="3 maps and 2 scales"):
        roi_align_pyramid(pyramid(), jnp.asarray(boxes_of_all_sizes()), (1 / 4, 1 / 8), 7)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("samples, size", [(1, 7), (2, 14), (2, 7)])
def test_equals_torchvision(samples, size, aligned):
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision").ops
    features = np.random.default_rng(0).normal(size=(16, 20, 3)).astype(np.float32)
    theirs = torch.tensor(features).permute(2, 0, 1)[None].requires_grad_()
    expected = ops.roi_align(theirs, [torch.tensor(BOXES)], size, 0.25, samples, aligned)
    cotangent = torch.randn(expected.shape, generator=torch.manual_seed(0))
    expected.backward(cotangent)
    found, pull = jax.vjp(
        lambda f: roi_align(f, jnp.asarray(BOXES), 0.25, size, samples, aligned), jnp.asarray(features)
    )
    np.testing.assert_allclose(found, expected.detach().permute(0, 2, 3, 1).numpy(), atol=1e-5)
    (gradient,) = pull(jnp.asarray(cotangent.permute(0, 2, 3, 1).numpy()))
    np.testing.assert_allclose(gradient, theirs.grad[0].permute(1, 2, 0).numpy(), atol=1e-5)
