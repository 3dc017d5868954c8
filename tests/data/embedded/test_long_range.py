import itertools

import numpy as np
import pytest
from sklearn.datasets import load_digits

from nl_jax.data.embedded.digits import TINTS, samples
from nl_jax.data.embedded.long_range import CUE, GLYPH, LongRange
from nl_jax.errors import InputError

DIGITS = load_digits()


def test_a_clip_is_the_same_for_the_same_seed_split_and_index():
    a, b = (LongRange("train", size=10).train_example(3) for _ in range(2))
    for key in ("video", "label", "index", "failed"):
        np.testing.assert_array_equal(a[key], b[key])
    for other in (
        LongRange("train", size=10).train_example(4),
        LongRange("train", size=10, seed=1).train_example(3),
        LongRange("validation", size=10).train_example(3),
    ):
        assert (other["video"] != a["video"]).any()


def test_clips_have_the_interface_of_a_video_data_set():
    data = LongRange("test", size=10, frames=12, side=20)
    clip, view = data.train_example(7, np.random.default_rng(0)), data.test_example(7)
    assert len(data) == 10
    assert clip["video"].shape == (12, 20, 20, 3) and clip["video"].dtype == np.uint8
    assert clip["label"].dtype == clip["index"].dtype == clip["failed"].dtype == np.int32
    assert clip["index"] == 7 and clip["failed"].tolist() == []
    np.testing.assert_array_equal(view["video"], clip["video"][None])
    assert data.classes == tuple("01234")


def test_splits_share_no_handwriting_and_use_all_of_it():
    used = {split: np.concatenate(samples(split)) for split in ("train", "validation", "test")}
    for a, b in itertools.combinations(used.values(), 2):
        assert not np.intersect1d(a, b).size
    assert sorted(np.concatenate(list(used.values()))) == list(range(len(DIGITS.target)))
    for split in used:
        for digit, found in enumerate(samples(split)):
            assert (DIGITS.target[found] == digit).all()


def look(window):
    """Returns the kind, tint and scikit-learn sample of a window of a frame without noise, from its pixels alone."""
    shape = window.max(-1).astype(float)
    colour = window.reshape(-1, 3)[shape.argmax()] / shape.max()
    tints = np.array(list(TINTS.values())) / np.max(list(TINTS.values()), axis=1, keepdims=True)
    tint = int(np.abs(tints - colour).sum(1).argmin())
    if len(np.unique(shape)) == 2:
        return CUE, tint, -1
    small = shape.reshape(8, 2, 8, 2).mean((1, 3)).ravel()
    small, known = small - small.mean(), DIGITS.data - DIGITS.data.mean(1, keepdims=True)
    sample = int((known @ small / np.linalg.norm(known, axis=1)).argmax())
    return int(DIGITS.target[sample]), tint, sample


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_label_is_the_digit_of_the_cues_tint(split):
    data = LongRange(split, size=100, noise=0, kinds=10)
    allowed = np.concatenate(samples(split))
    for index in range(100):
        clip, (shots, _) = data.train_example(index), data.compose(index)
        seen = {}  # tint of every digit, from the pixels
        for shot in shots:
            for frame, (top, left) in zip(shot.frames, shot.places, strict=True):
                picture = clip["video"][frame]
                window = picture[top : top + GLYPH, left : left + GLYPH]
                assert window.sum() == picture.sum()  # nothing else is on screen
                kind, tint, sample = look(window)
                assert seen.setdefault(kind, tint) == tint
                assert sample == -1 or sample in allowed
        cue = seen.pop(CUE)
        assert len(seen) == len(set(seen.values())) == 4
        assert [digit for digit, tint in seen.items() if tint == cue] == [clip["label"]]


def test_an_image_shows_one_thing_named_by_its_class():
    data = LongRange("train", size=200, images=True, noise=0)
    for index in range(200):
        clip, (shots, _) = data.train_example(index), data.compose(index)
        top, left = shots[0].places[0]
        assert clip["video"].shape == (1, 24, 24, 3)
        kind, tint, _ = look(clip["video"][0, top : top + GLYPH, left : left + GLYPH])
        assert data.classes[clip["label"]] == f"{list(TINTS)[tint]} {'disc' if kind == CUE else kind}"


def test_shots_fill_the_clip_and_things_stay_on_screen():
    data = LongRange("train", size=50, frames=17, drift=5)
    for index in range(50):
        shots, _ = data.compose(index)
        assert [frame for shot in shots for frame in shot.frames] == list(range(17))
        assert all(((shot.places >= 0) & (shot.places <= 24 - GLYPH)).all() for shot in shots)


def test_labels_tints_and_the_order_of_the_cue_are_balanced():
    data = LongRange("train", size=4000, kinds=10)
    composed = [data.compose(index) for index in range(4000)]
    cues = [next((place, shot.tint) for place, shot in enumerate(shots) if shot.kind == CUE) for shots, _ in composed]
    for counts in (
        np.bincount([label for _, label in composed], minlength=10),
        np.bincount([place for place, _ in cues], minlength=5),
        np.bincount([tint for _, tint in cues], minlength=4),
    ):
        assert (np.abs(counts / counts.mean() - 1) < 0.2).all()


def test_adding_up_what_each_shot_shows_is_right_one_time_in_four():
    """Trains a linear classifier on the sum of one-hot (kind, tint), the best sum of a frame-by-frame network."""
    data = LongRange("train", size=6000, kinds=10)
    evidence, labels = np.zeros((6000, 11, 4)), np.zeros(6000, int)
    for index in range(6000):
        shots, labels[index] = data.compose(index)
        for shot in shots:
            evidence[index, shot.kind, shot.tint] += 1
    sums, target = evidence.reshape(6000, -1), np.eye(10)[labels]
    fitted, held_out = slice(0, 4000), slice(4000, None)
    weights = np.zeros((44, 10))
    for _ in range(200):  # logistic regression by gradient descent
        scores = np.exp(sums[fitted] @ weights)
        weights += sums[fitted].T @ (target[fitted] - scores / scores.sum(1, keepdims=True)) / 4000
    assert 0.2 < ((sums[held_out] @ weights).argmax(1) == labels[held_out]).mean() < 0.3

    # The product of the cue's tint with the digits' tints answers every clip.
    products = np.einsum("ndk,nk->nd", evidence[:, :10], evidence[:, CUE])
    assert (products.argmax(1) == labels).all()


def test_the_hash_names_the_clips():
    def named(split="train", size=10, **options):
        return LongRange(split, size=size, **options).list_hash()

    assert named() == named() and len(named()) == 12 and int(named(), 16) >= 0
    others = [
        named("test"),
        named(size=11),
        named(seed=1),
        named(images=True),
        named(frames=20),
        named(noise=0),
        named(kinds=6),
    ]
    assert len({named(), *others}) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "split='val' is unknown; choose one of train, validation, test"),
        ({"size": 0}, "size=0 is out of range; choose 1 or more"),
        ({"digits": 5}, "digits=5 is out of range; choose 2 to 4"),
        ({"kinds": 11}, "kinds=11 is out of range; choose 2 to 10"),
        ({"kinds": 3}, "digits=4 is out of range; choose 2 to 3"),
        ({"frames": 4}, "frames=4 is out of range; choose 5 or more"),
        ({"side": 12}, "side=12 is out of range; choose 16 or more"),
        ({"noise": 300}, "noise=300 is out of range; choose 0 to 255"),
        ({"drift": -1.0}, "drift=-1.0 is out of range; choose 0 or more"),
    ],
)
def test_bad_arguments_name_field_value_and_choices(options, message):
    with pytest.raises(InputError, match=message):
        LongRange(**({"split": "train", "size": 10} | options))


def test_an_index_past_the_end_is_refused():
    with pytest.raises(InputError, match="index=10 is out of range; choose 0 to 9"):
        LongRange("train", size=10).train_example(10)
