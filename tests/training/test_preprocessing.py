"""Smoothed labels and mixed clips against plain loops, in the loss that a classifier is trained by."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nl_jax.errors import InputError
from nl_jax.tasks.classification import Classification
from nl_jax.training.preprocessing import mixed, smooth

CLASSES, CLIPS = 5, 4


class Colours(nnx.Module):
    """Logits (b,k) of a clip's mean colour; no dropout, so the key is of no use."""

    def __init__(self, weights):
        self.weights = nnx.Param(weights)

    def __call__(self, video, key):
        return video.mean(axis=(1, 2, 3)) @ self.weights[...], None


@pytest.fixture
def clips():
    rng = np.random.default_rng(0)
    video = rng.integers(256, size=(CLIPS, 2, 3, 3, 3), dtype=np.uint8)
    weights = jnp.asarray(rng.normal(size=(3, CLASSES)), jnp.float32)
    one, several = np.array([3, 0, 4, 3], np.int32), rng.integers(2, size=(CLIPS, CLASSES)).astype(np.float32)
    return video, weights, {"one": one, "several": several}


def task_with(tiny, **fields):
    return Classification(tiny("c2d", {f"loss.{name}": value for name, value in fields.items()}))


def loss_of(task, clips, kind, key):
    video, weights, labels = clips
    batch = {"video": jnp.asarray(video), "label": jnp.asarray(labels[kind])}
    value, metrics = task.loss(Colours(weights), batch, key)
    return float(value), float(metrics["top1"])


def expected_loss(clips, kind, shares, smoothing, apart=1):
    """Clip by clip and class by class."""
    video, weights, labels = clips
    frames = (video.astype(np.float64) / 255 - 0.45) / 0.225
    losses, hits = [], []
    for i in range(CLIPS):
        s = shares[i]
        target = np.zeros(CLASSES)
        for part, j in ((s, i), (1 - s, (i - apart) % CLIPS)):
            label = labels[kind][j]
            for k in range(CLASSES):
                target[k] += part * (label[k] if kind == "several" else (k == label))
        clip = s * frames[i] + (1 - s) * frames[(i - apart) % CLIPS]
        logits = clip.mean(axis=(0, 1, 2)) @ np.asarray(weights, np.float64)
        hits.append(target[logits.argmax()])
        if kind == "several":
            target = target * (1 - smoothing) + smoothing / 2
            p = 1 / (1 + np.exp(-logits))
            losses.append(-(target * np.log(p) + (1 - target) * np.log(1 - p)).mean())
        else:
            target = target * (1 - smoothing) + smoothing / CLASSES
            losses.append(-(target * (logits - np.log(np.exp(logits).sum()))).sum())
    return np.mean(losses), np.mean(hits)


@pytest.mark.parametrize("kind", ["one", "several"])
@pytest.mark.parametrize("smoothing, alpha", [(0.1, 0.0), (0.0, 0.4), (0.2, 1.0)])
def test_the_loss_against_a_loop(tiny, clips, kind, smoothing, alpha):
    key = jax.random.key(3)
    shares = np.ones(CLIPS)
    if alpha:
        shares = np.asarray(jax.random.beta(jax.random.split(key)[1], alpha, alpha, (CLIPS,)))
        assert 0 <= shares.min() < shares.max() <= 1
    found = loss_of(task_with(tiny, label_smoothing=smoothing, mixup=alpha), clips, kind, key)
    np.testing.assert_allclose(found, expected_loss(clips, kind, shares, smoothing), rtol=1e-5)


def test_without_either_the_loss_is_what_it_was(tiny, clips):
    video, weights, labels = clips
    logits, _ = Colours(weights)((jnp.asarray(video).astype(jnp.float32) / 255 - 0.45) / 0.225, None)
    one = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels["one"])).mean()
    several = optax.sigmoid_binary_cross_entropy(logits, jnp.asarray(labels["several"])).mean()
    task = task_with(tiny)
    assert [loss_of(task, clips, kind, jax.random.key(0))[0] for kind in labels] == [float(one), float(several)]


def test_clips_of_one_video_are_mixed_with_those_of_another(clips):
    x = jnp.arange(6.0).reshape(6, 1)
    shares = jnp.asarray([1, 0.5, 0.25, 0.5, 0, 1])
    np.testing.assert_allclose(mixed(x, shares, apart=2)[:, 0], [0, 3, 0.5, 2, 2, 5])


def test_smoothing_keeps_the_sum():
    label = jax.nn.one_hot(jnp.asarray([1, 0]), 4)
    np.testing.assert_allclose(smooth(label, 0.2, multi_label=False)[0], [0.05, 0.85, 0.05, 0.05], rtol=1e-6)
    np.testing.assert_allclose(smooth(label, 0.2, multi_label=True)[1], [0.9, 0.1, 0.1, 0.1], rtol=1e-6)


@pytest.mark.parametrize("field, value", [("label_smoothing", 1.0), ("label_smoothing", -0.1), ("mixup", -1.0)])
def test_what_is_out_of_range_is_named(tiny, field, value):
    with pytest.raises(InputError, match=f"loss.{field}={value} is out of range"):
        task_with(tiny, **{field: value}).check()


def test_mixup_needs_clips_of_two_videos(tiny):
    task = task_with(tiny, mixup=0.2)
    task.check()
    with task.config.unlocked():
        task.config.batch_size = task.config.accumulate_steps = 4
    with pytest.raises(InputError, match=r"loss\.mixup=0\.2 mixes clips of different videos, .* has 1 clips of one"):
        task.check()


def test_curves_say_that_clips_are_mixed(tiny):
    labels = task_with(tiny, mixup=0.2).curves[1].lines
    assert labels["train_top1"] == "training clips, top-1, by statistics of the batch, mixed"
