"""The keypoint head, its loss and its decoding against plain loops. `test_parity.py` compares with torchvision."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nl_jax.models import DetectorConfig
from nl_jax.models.detection import keypoint_head
from nl_jax.models.detection.keypoint_head import KeypointHead, find_keypoints, heatmap_targets, keypoint_loss
from nl_jax.models.nonlocal_block import PAIRWISE
from nl_jax.ops import devices


def cubic(t):
    """Returns the kernel of bicubic interpolation with a = -3/4."""
    t = abs(t)
    if t <= 1:
        return 1.25 * t**3 - 2.25 * t**2 + 1
    return -0.75 * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def enlarged(heatmap, height, width):
    """Resize the heatmap, pixel by pixel."""

    def weights(pixels, cells):
        found = np.zeros((pixels, cells))
        for pixel in range(pixels):
            at = (pixel + 0.5) * cells / pixels - 0.5
            for tap in range(math.floor(at) - 1, math.floor(at) + 3):
                found[pixel, min(max(tap, 0), cells - 1)] += cubic(at - tap)
        return found

    return weights(height, len(heatmap)) @ heatmap @ weights(width, len(heatmap)).T


@pytest.mark.parametrize("at_once, count", [(1, 1), (3, 8)])
def test_keypoints_are_the_highest_pixels_of_the_enlarged_heatmap(at_once, count, monkeypatch):
    monkeypatch.setitem(keypoint_head.BOXES_AT_ONCE, "cpu", at_once)
    rng = np.random.default_rng(0)
    heatmaps = rng.normal(size=(2, 3, 2, 9, 9)).astype(np.float32)
    boxes = np.array(
        [
            [[3, 4, 67.5, 30], [10.2, 5.7, 140.9, 90.3], [0, 0, 0, 0]],  # above one tile; several tiles; no box
            [[8, 8, 8.4, 60], [1, 2, 65, 66], [20, 10, 27, 13.5]],  # narrower than a pixel; one tile; few pixels
        ],
        np.float32,
    )
    with jax.enable_x64(True), devices.compiling_for("cpu", count):
        found = jax.jit(find_keypoints)(jnp.asarray(heatmaps, jnp.float64), jnp.asarray(boxes, jnp.float64))
    for place in np.ndindex(2, 3):
        x0, y0, x1, y1 = boxes[place].astype(float)
        width, height = max(x1 - x0, 1), max(y1 - y0, 1)
        for k in range(2):
            values = enlarged(heatmaps[place][k].astype(float), math.ceil(height), math.ceil(width))
            row, column = np.unravel_index(values.argmax(), values.shape)
            at = x0 + (column + 0.5) * width / values.shape[1], y0 + (row + 0.5) * height / values.shape[0]
            np.testing.assert_allclose(found[place][k], (*at, values.max()), rtol=1e-9)


def head(**fields):
    config = DetectorConfig(keypoints=3, keypoint_channels=4, keypoint_convolutions=3, **fields)
    model = KeypointHead(5, config, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if "nonlocal_blocks" not in path:
            variable.set_value(jnp.asarray(rng.normal(size=variable.shape) / 4, jnp.float32))
    return model


def test_the_deconvolution_adds_every_place_to_4_x_4_places():
    layer = head().deconv
    kernel, bias = np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    expected = np.zeros((2, 6, 10, 3)) + bias
    for h, w, y, x_ in np.ndindex(3, 5, 4, 4):
        row, column = 2 * h + y - 1, 2 * w + x_ - 1
        if 0 <= row < 6 and 0 <= column < 10:
            expected[:, row, column] += x[:, h, w] @ kernel[y, x_]
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_a_block_stands_after_the_relu_of_its_convolution(pairwise):
    model = head(keypoint_blocks=(1, 3), keypoint_options={"pairwise": pairwise, "init": "he"})
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 6, 5)), jnp.float32)
    heatmaps, out = model(x)
    assert heatmaps.shape == (2, 3, 24, 24)
    assert list(out) == ["keypoint_1", "keypoint_1_nonlocal", "keypoint_2", "keypoint_3", "keypoint_3_nonlocal"]
    assert (out["keypoint_1"] >= 0).all()
    np.testing.assert_array_equal(out["keypoint_3_nonlocal"], out["keypoint_3"])  # a new block is the identity
    w_z = model.nonlocal_blocks[1].w_z.kernel
    w_z.set_value(jnp.ones_like(w_z[...]))
    moved, out = model(x)
    block = model.nonlocal_blocks[1]
    np.testing.assert_allclose(out["keypoint_3_nonlocal"], block(out["keypoint_3"]), rtol=1e-6)
    assert np.abs(moved - heatmaps).max() > 1e-4


def test_targets_and_loss():
    rng = np.random.default_rng(0)
    boxes = np.array([[10, 20, 50, 80], [3.5, 2.25, 9, 30], [0, 0, 0, 0]], np.float32)
    points = np.concatenate([rng.uniform(0, 60, (3, 40, 2)), rng.integers(0, 3, (3, 40, 1))], axis=-1)
    points[1, :20, :2] = rng.uniform((3.5, 2.25), (9, 30), (20, 2))
    points[0, 0], points[0, 1], points[0, 2] = (50, 80, 2), (10, 20, 1), (50.01, 30, 2)
    points = points.astype(np.float32)
    heatmaps = rng.normal(size=(3, 40, 8, 8)).astype(np.float32)
    places, counts = heatmap_targets(jnp.asarray(points), jnp.asarray(boxes), 8)
    entropy = []
    for box, k in np.ndindex(3, 40):
        (x0, y0, x1, y1), (x, y, seen) = boxes[box].tolist(), points[box, k].tolist()
        inside = x0 <= x <= x1 and y0 <= y <= y1 and x1 > x0
        assert bool(counts[box, k]) == (inside and seen > 0)
        if inside and seen:
            row, column = (min(int((a - low) / (high - low) * 8), 7) for a, low, high in ((y, y0, y1), (x, x0, x1)))
            assert places[box, k] == row * 8 + column
            values = heatmaps[box, k].astype(float)
            entropy.append(np.log(np.exp(values).sum()) - values[row, column])
    assert len(entropy) > 15 and counts[0, 0] and counts[0, 1] and not counts[0, 2] and not counts[2].any()
    np.testing.assert_allclose(keypoint_loss(jnp.asarray(heatmaps), places, counts), np.mean(entropy), rtol=1e-5)

    # An object without a counted keypoint adds nothing. A batch without any counted keypoint gives no NaN.
    of = jax.value_and_grad(keypoint_loss)
    value, gradient = of(jnp.asarray(heatmaps), places, counts)
    assert not gradient[2].any() and gradient[0].any()
    value, gradient = of(jnp.asarray(heatmaps), places, jnp.zeros_like(counts))
    assert value == 0 and not gradient.any()
