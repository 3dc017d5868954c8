"""NMS against the greedy choice, box by box."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nl_jax.ops.nms import best_by_class, nms


def some(n, spread, seed=0):
    rng = np.random.default_rng(seed)
    centre, side = rng.uniform(0, spread, (n, 2)), rng.uniform(10, 80, (n, 2))
    return np.concatenate([centre - side / 2, centre + side / 2], axis=1).astype(np.float32), rng


def greedy(boxes, scores, threshold, valid=None, classes=None):
    """Returns the kept indices, highest score first. The IoU is float32 and is compared in float64, as in C++."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if valid is not None and not valid[i]:
            continue
        for j in kept:
            if classes is not None and classes[i] != classes[j]:
                continue
            width = np.minimum(boxes[i, 2], boxes[j, 2]) - np.maximum(boxes[i, 0], boxes[j, 0])
            height = np.minimum(boxes[i, 3], boxes[j, 3]) - np.maximum(boxes[i, 1], boxes[j, 1])
            shared = np.maximum(width, np.float32(0)) * np.maximum(height, np.float32(0))
            if float(shared / (area[i] + area[j] - shared)) > threshold:
                break
        else:
            kept.append(i)
    return kept


def in_order(keep, scores):
    found = np.flatnonzero(keep)
    return list(found[np.argsort(-scores[found], kind="stable")])


compiled = jax.jit(nms, static_argnums=3)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_is_the_greedy_choice(threshold):
    for spread, ties, seed in ((30, False, 0), (30, True, 1), (200, False, 2), (200, True, 3), (1000, True, 4)):
        boxes, rng = some(300, spread, seed)
        scores = rng.uniform(size=300).astype(np.float32)
        scores = np.round(scores, 1) if ties else scores
        valid = rng.uniform(size=300) < 0.8
        expected = greedy(boxes, scores, threshold, valid)
        assert in_order(compiled(boxes, scores, valid, threshold), scores) == expected
        assert spread == 1000 or len(expected) < valid.sum()


def test_a_chain_takes_as_many_rounds_as_it_has_links():
    """Every box overlaps only the next one, so the greedy choice is every second box."""
    start = np.arange(64, dtype=np.float32)[:, None] * 6
    boxes = np.concatenate([start, 0 * start, start + 10, 0 * start + 10], axis=1)
    keep = compiled(boxes, -np.arange(64, dtype=np.float32), np.ones(64, bool), 0.2)
    np.testing.assert_array_equal(keep, np.arange(64) % 2 == 0)


@pytest.mark.parametrize("threshold, kept", [(0.3, 1), (0.5, 2), (0.6, 2), (0.25, 1)])
def test_an_overlap_at_the_threshold(threshold, kept):
    """6/10 in float32 is above 0.6 in float64. 1/2 is not above 1/2."""
    other = {0.3: [0, 0, 3, 1], 0.5: [0, 0, 5, 1], 0.6: [0, 0, 6, 1], 0.25: [0, 0, 2.51, 1]}[threshold]
    boxes = np.asarray([[0, 0, 10, 1], other], np.float32)
    scores = np.asarray([1, 0.5], np.float32)
    expected = greedy(boxes, scores, threshold)
    assert in_order(compiled(boxes, scores, np.ones(2, bool), threshold), scores) == expected
    if threshold != 0.6:
        assert len(expected) == kept


def test_nothing_valid_and_no_area():
    boxes, scores = np.zeros((5, 4), np.float32), np.ones(5, np.float32)
    assert not compiled(boxes, scores, np.zeros(5, bool), 0.5).any()
    assert compiled(boxes, scores, np.ones(5, bool), 0.5).all()  # nothing overlaps


def test_is_mapped_over_images():
    boxes, rng = zip(*(some(40, 60, seed) for seed in range(3)), strict=True)
    boxes, scores = np.stack(boxes), rng[0].uniform(size=(3, 40)).astype(np.float32)
    valid = np.ones((3, 40), bool)
    together = jax.vmap(lambda *a: nms(*a, 0.5))(*map(jnp.asarray, (boxes, scores, valid)))
    for i in range(3):
        np.testing.assert_array_equal(together[i], compiled(boxes[i], scores[i], valid[i], 0.5))


@pytest.mark.parametrize("count, chunk", [(5, 20), (20, 7), (20, 50), (200, 30)])
def test_best_by_class(count, chunk):
    """Ask for fewer boxes than there are, for all of them, and for more, with several sizes of chunks."""
    boxes, rng = some(100, 40)
    scores = -np.sort(-rng.uniform(size=100).astype(np.float32))
    scores[90:] = -np.inf
    classes = rng.integers(0, 3, 100).astype(np.int32)
    expected = greedy(boxes, scores, 0.4, scores > -np.inf, classes)
    assert 5 < len(expected) < 60
    index, valid = jax.jit(best_by_class, static_argnums=(3, 4, 5))(boxes, scores, classes, 0.4, count, chunk)
    assert index.shape == valid.shape == (count,)
    assert list(np.asarray(index)[np.asarray(valid)]) == expected[:count]
    assert valid.sum() == min(count, len(expected))


def test_classes_do_not_drop_each_other():
    boxes = jnp.zeros((2, 4)).at[:, 2:].set(10)
    scores, valid = jnp.ones(2), jnp.ones(2, bool)
    assert nms(boxes, scores, valid, 0.5, jnp.asarray([0, 1])).all()
    np.testing.assert_array_equal(nms(boxes, scores, valid, 0.5, jnp.asarray([1, 1])), [True, False])
