import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from nl_jax.evaluation.metrics import average_precision, mean_average_precision


def by_the_rule(scores, labels):
    """Computes average precision as in Charades' evaluation, one video after the other, for scores without ties."""
    scores = scores.copy()
    for i, of_video in enumerate(labels):
        if not of_video.any():
            scores[i] = -np.inf
    result = []
    for k in range(scores.shape[1]):
        right = found = total = 0
        for place, i in enumerate(sorted(range(len(scores)), key=lambda i: -scores[i, k]), start=1):
            if labels[i, k]:
                right, found = right + 1, found + 1
                total += right / place
        result.append(total / found if found else np.nan)
    return np.array(result)


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_by_the_published_rule(seed):
    rng = np.random.default_rng(seed)
    scores = rng.permutation(40 * 6).reshape(40, 6) / 240
    labels = (rng.random((40, 6)) < 0.2).astype(np.float32)
    labels[:, 5] = 0
    assert not labels.any(axis=1).all(), "some videos have no label"
    found = average_precision(scores, labels)
    np.testing.assert_allclose(found, by_the_rule(scores, labels), rtol=1e-12)
    assert np.isnan(found[5])
    assert mean_average_precision(scores, labels) == pytest.approx(np.nanmean(found))


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_of_scikit_learn_with_ties(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(5, size=(50, 4)) / 5
    labels = rng.random((50, 4)) < 0.3
    labels[~labels.any(axis=1), 0] = True  # scikit-learn has no rule for videos without labels
    expected = [average_precision_score(labels[:, k], scores[:, k]) for k in range(4)]
    np.testing.assert_allclose(average_precision(scores, labels), expected, rtol=1e-12)


def test_a_constant_is_worth_the_share_of_positives():
    labels = np.array([[1, 0], [0, 1], [0, 1], [1, 0], [0, 1]])
    np.testing.assert_allclose(average_precision(np.ones((5, 2)), labels), [2 / 5, 3 / 5])


def test_what_is_no_number_ranks_last():
    labels = np.array([[1, 0], [1, 1], [0, 1]])
    scores = np.array([[0.9, 0.1], [np.nan, np.nan], [0.2, 0.8]])
    np.testing.assert_allclose(average_precision(scores, labels), [(1 + 2 / 3) / 2, (1 + 2 / 3) / 2])


def test_nothing_positive():
    assert np.isnan(mean_average_precision(np.ones((3, 2)), np.zeros((3, 2))))
