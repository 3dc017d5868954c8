"""Boxes against plain NumPy, one box at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nl_jax.ops import boxes


def some(n, seed=0):
    rng = np.random.default_rng(seed)
    corner, side = rng.uniform(-20, 100, (n, 2)), rng.uniform(1, 60, (n, 2))
    return np.concatenate([corner, corner + side], axis=1).astype(np.float32)


def naive_intersection(a, b):
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)


def naive_area(a):
    return max(a[2] - a[0], 0) * max(a[3] - a[1], 0)


def test_overlap_of_every_pair():
    a, b = some(9), some(7, seed=1)
    a[0] = b[0]
    a[1] = [5, 5, 5, 9]  # without area
    a[2] = [9, 9, 3, 3]  # negative sides
    b[1] = a[1]
    expected, part = np.zeros((2, 9, 7))
    for i, j in np.ndindex(9, 7):
        shared = naive_intersection(a[i], b[j])
        union = naive_area(a[i]) + naive_area(b[j]) - shared
        expected[i, j] = shared / union if union else 0
        part[i, j] = shared / naive_area(a[i]) if naive_area(a[i]) else 0
    assert expected[0, 0] == 1
    np.testing.assert_allclose(boxes.iou(*map(jnp.asarray, (a, b))), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(boxes.covered(*map(jnp.asarray, (a, b))), part, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(boxes.area(jnp.asarray(a)), [naive_area(box) for box in a], rtol=1e-6)
    assert boxes.iou(jnp.asarray(a, jnp.bfloat16), jnp.asarray(b)).dtype == jnp.float32


def test_decode_undoes_encode():
    weights = (10.0, 10.0, 5.0, 5.0)
    found, references = jnp.asarray(some(50)), jnp.asarray(some(50, seed=1))
    deltas = boxes.encode(found, references, weights)
    for box, reference, delta in zip(*map(np.asarray, (found, references, deltas)), strict=True):
        side, reference_side = box[2:] - box[:2], reference[2:] - reference[:2]
        shift = ((box[:2] + box[2:]) / 2 - (reference[:2] + reference[2:]) / 2) / reference_side
        expected = np.concatenate([10 * shift, 5 * np.log(side / reference_side)])
        np.testing.assert_allclose(delta, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(boxes.decode(deltas, references, weights), found, rtol=1e-5, atol=1e-4)


def test_growth_has_a_limit():
    (box,) = boxes.decode(jnp.asarray([[0.0, 0.0, 100.0, 100.0]]), jnp.asarray([[0.0, 0.0, 16.0, 16.0]]))
    np.testing.assert_allclose(box, [8 - 500, 8 - 500, 8 + 500, 8 + 500], rtol=1e-6)


def test_clipped_boxes_lie_in_their_image():
    found = jnp.asarray([[-5.0, -5, 50, 70], [10, 20, 30, 40], [90, 90, 120, 120]])
    clipped = boxes.clip(found, jnp.asarray([[60, 40]] * 3))  # height, width
    np.testing.assert_array_equal(clipped, [[0, 0, 40, 60], [10, 20, 30, 40], [40, 60, 40, 60]])
    np.testing.assert_array_equal(boxes.is_larger(clipped, 1.0), [True, True, False])
    np.testing.assert_array_equal(boxes.is_larger(clipped, 0.0), [True, True, False])
    np.testing.assert_array_equal(boxes.is_larger(clipped, 21.0), [True, False, False])


@pytest.mark.parametrize("function", [boxes.iou, boxes.encode, boxes.decode])
def test_float64_stays(function):
    with jax.enable_x64(True):
        assert function(jnp.ones((2, 4), jnp.float64), jnp.ones((2, 4), jnp.float64)).dtype == jnp.float64
