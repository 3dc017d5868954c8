import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.metrics import average_precision_score

from nl_jax.data.dataset import ClipDataset
from nl_jax.data.loader import test_batches
from nl_jax.evaluation.metrics import in_top_k
from nl_jax.evaluation.views import Predictions, predict
from nl_jax.tasks.classification import Classification


class Videos(ClipDataset):
    """Five videos of three views. Every pixel of view v of video i is 10 i + v. The last video cannot be decoded."""

    classes = tuple("abcdefg")
    names = tuple(f"video{i}" for i in range(5))
    multi_label = variable_size = False

    def __len__(self):
        return 5

    def list_hash(self):
        return "0123456789ab"

    def test_example(self, index):
        video = np.broadcast_to((10 * index + np.arange(3, dtype=np.uint8)).reshape(3, 1, 1, 1, 1), (3, 2, 4, 4, 3))
        failed = np.array([index if index == 4 else -1, -1, -1, -1], np.int32)
        return {"video": video, "label": np.int32(index), "index": np.int32(index), "failed": failed}


def scores_of(value):
    """Returns the output of the fake network for a view: a softmax that depends on its pixels."""
    logits = np.sin(np.arange(7) * (1 + value))
    return np.exp(logits) / np.exp(logits).sum()


def forward(inputs):
    video = inputs["video"]
    return np.stack([scores_of(float(clip.max())) for clip in video])


def predictions_of(dataset, batch_size, forward=forward):
    """Returns the result of `predict` for the batches of a dataset."""
    batches = test_batches(dataset, batch_size=1 if dataset.variable_size else batch_size)
    return predict(dataset, batches, forward, at_once=batch_size)


def test_scores_are_the_mean_over_views_and_failures_are_wrong():
    predictions = predictions_of(Videos(), 2)
    expected = np.array([[scores_of(10 * i + v) for v in range(3)] for i in range(5)])
    np.testing.assert_allclose(predictions.view_scores, expected, rtol=1e-6)
    np.testing.assert_allclose(predictions.scores, expected.mean(1), rtol=1e-6)
    assert predictions.failed.tolist() == [False] * 4 + [True]

    metrics = predictions.metrics()
    for k in (1, 5):
        ranks = [(expected.mean(1)[i] > expected.mean(1)[i, i]).sum() for i in range(4)]
        assert metrics[f"video_top{k}"] == pytest.approx(sum(rank < k for rank in ranks) / 5)
        ranks = [(expected[i, v] > expected[i, v, i]).sum() for i in range(4) for v in range(3)]
        assert metrics[f"clip_top{k}"] == pytest.approx(sum(rank < k for rank in ranks) / 15)
    assert (metrics["videos"], metrics["views"], metrics["undecodable"]) == (5, 3, 1)
    assert metrics["list"] == "0123456789ab"


def test_videos_with_scores_that_are_not_finite_are_counted():
    found = predictions_of(Videos(), 2)
    found.scores[1, 0] = np.nan
    found.scores[4] = np.inf  # this video cannot be decoded
    assert found.metrics()["nonfinite"] == 1
    config = ConfigDict({"input": {"mean": (0.5,) * 3, "std": (0.5,) * 3}})
    told = Classification(config).describe(found.metrics() | {"measured_on": "the test split", "chance": 0.1})
    assert "the scores of 1 of these videos are not finite and count as wrong" in told


def test_saved_predictions_name_videos_and_classes(tmp_path):
    predictions = predictions_of(Videos(), 2)
    path = predictions.save(tmp_path, Videos())
    assert path == tmp_path / "predictions.npz"
    with np.load(path) as saved:
        np.testing.assert_array_equal(saved["scores"], predictions.scores)
        assert tuple(saved["names"]) == Videos.names and tuple(saved["classes"]) == Videos.classes


def test_equal_or_broken_scores_are_never_right():
    labels = np.array([0, 1, 2])
    assert not in_top_k(np.ones((3, 3)), labels, 1).any()
    assert not in_top_k(np.full((3, 3), np.nan), labels, 3).any()
    scores = np.array([[3.0, 1.0, 2.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    assert in_top_k(scores, labels, 1).tolist() == [True, False, True]
    assert in_top_k(scores, labels, 2).all()


def test_clips_and_videos_are_told_apart():
    """Two views are wrong alone and right together."""
    views = np.array([[[0.3, 0.0, 0.7], [0.4, 0.6, 0.0]]])
    predictions = Predictions(views.mean(1), views, np.array([0]), np.array([False]), "x")
    metrics = predictions.metrics()
    assert (metrics["clip_top1"], metrics["video_top1"]) == (0.0, 0.0)
    views = np.array([[[0.4, 0.0, 0.6], [0.4, 0.6, 0.0]]])
    metrics = Predictions(views.mean(1), views, np.array([0]), np.array([False]), "x").metrics()
    assert (metrics["clip_top1"], metrics["video_top1"]) == (0.0, 1.0)


class WholeFrames(Videos):
    """Three videos of five whole-frame views. Every view has its own width and value. The second cannot be decoded."""

    variable_size = True
    sizes = ((4, 5), (4, 4), (4, 7))

    def __len__(self):
        return 3

    def test_example(self, index):
        height, width = self.sizes[index]
        values = (10 * index + np.arange(5, dtype=np.uint8)).reshape(5, 1, 1, 1, 1)
        video = np.broadcast_to(values, (5, 2, height, width, 3))
        failed = np.array([index if index == 1 else -1, -1, -1, -1], np.int32)
        return {"video": video, "label": np.int32(index), "index": np.int32(index), "failed": failed}


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("batch_size", [2, 4, 8])
def test_whole_frames_go_through_in_their_own_size(batch_size, devices, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    seen = []

    def noted(inputs):
        seen.append(inputs["video"].shape)
        return forward(inputs)

    predictions = predictions_of(WholeFrames(), batch_size, noted)
    expected = np.array([[scores_of(10 * i + v) for v in range(5)] for i in range(3)])
    np.testing.assert_allclose(predictions.view_scores, expected, rtol=1e-6)
    np.testing.assert_allclose(predictions.scores, expected.mean(1), rtol=1e-6)
    assert predictions.labels.tolist() == [0, 1, 2] and predictions.failed.tolist() == [False, True, False]
    assert {shape[2:4] for shape in seen} == set(WholeFrames.sizes)
    assert len(set(seen)) == 3, "one shape for every size, so that nothing is compiled twice"
    (views,) = {shape[0] for shape in seen}
    assert views <= batch_size and views % devices == 0
    assert sum(shape[0] for shape in seen) < 3 * (5 + batch_size)


class Actions(Videos):
    """The five videos, each with several labels."""

    def test_example(self, index):
        label = np.isin(np.arange(7), (index, 6 - index)).astype(np.float32)
        return super().test_example(index) | {"label": label}


def test_of_several_labels_the_highest_score_counts():
    predictions = predictions_of(Actions(), 2)
    expected = np.array([[scores_of(10 * i + v) for v in range(3)] for i in range(5)])
    np.testing.assert_allclose(predictions.scores, expected.max(1), rtol=1e-6)
    assert predictions.labels.shape == (5, 7)
    last = np.where(np.arange(5)[:, None] == 4, -1.0, expected.max(1))  # the video that cannot be decoded
    precision = [average_precision_score(predictions.labels[:, k], last[:, k]) for k in range(7)]
    metrics = predictions.metrics()
    assert metrics["video_map"] == pytest.approx(np.mean(precision))
    assert (metrics["videos"], metrics["undecodable"], metrics["list"]) == (5, 1, "0123456789ab")
    assert not any("top" in name for name in metrics)
