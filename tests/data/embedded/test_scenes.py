import itertools

import numpy as np
import pytest

from nl_jax.data.coco.masks import drawn
from nl_jax.data.dataset import Dataset
from nl_jax.data.embedded.digits import TINTS, samples
from nl_jax.data.embedded.scenes import CUE, HEIGHT, PAINTS, SIDES, Scenes, window
from nl_jax.errors import InputError
from nl_jax.evaluation.coco import evaluate, without_categories
from nl_jax.models.field_of_view import reach
from nl_jax.models.resnet import ResNetConfig


def colours(tints):
    return np.array(tints) / np.max(tints, axis=1, keepdims=True)


def tint_of(pixels, tints):
    """Returns the number of the tint of the brightest pixel."""
    pixel = pixels.reshape(-1, 3)[pixels.max(-1).argmax()]
    return int(np.abs(colours(tints) - pixel / pixel.max()).sum(1).argmin())


def test_a_scene_is_the_same_for_the_same_seed_split_and_index():
    a, b = (Scenes("train", size=10).train_example(3, np.random.default_rng(0)) for _ in range(2))
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    for other in (Scenes("train", size=10, seed=1), Scenes("validation", size=10)):
        assert (other.pixels(3) != a["images"]).any()
    assert (Scenes("train", size=10).pixels(4) != a["images"]).any()


def test_scenes_are_a_data_set_of_detection():
    data = Scenes("test", size=10)
    assert isinstance(data, Dataset) and len(data) == 10 and data.names[7] == "7"
    assert data.classes == tuple(TINTS) and data.shape.bucket(False) == (96, 192)
    example = data.train_example(7, np.random.default_rng(0))
    assert example["images"].shape == (96, 192, 3) and example["sizes"].tolist() == [96, 192]
    assert example["masks"].shape == (6, 112, 112) and example["valid"].sum() in (2, 3, 4)
    assert example["scale"].tolist() == [1, 1] and (example["failed"] == -1).all()
    tested = data.test_example(7)
    np.testing.assert_array_equal(tested["images"], example["images"])
    assert tested["index"] == tested["image_id"] == 7


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_pixels_tell_the_class_by_the_cue_and_the_mask_by_the_ink(split):
    data = Scenes(split, size=40, noise=0)
    allowed = np.concatenate(samples(split))
    for index in range(40):
        picture, image = data.pixels(index), data.annotated(index)
        things, cue = data.compose(index)
        rest = picture.copy()
        for thing, instance in zip(things, image.instances, strict=True):
            part = window(picture, thing)
            mask = window(drawn(instance.segmentation, HEIGHT, data.width), thing)
            assert part[mask == 1].max(-1).min() >= part[mask == 0].max(-1).max(initial=0)  # ink is brighter than paper
            assert tint_of(part, PAINTS) == thing.tint and thing.sample in allowed
            assert instance.area == mask.sum() > 30
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = columns[0] + thing.left, rows[0] + thing.top, columns[-1] + thing.left + 1, rows[-1] + thing.top + 1
            np.testing.assert_array_equal(image.box(instance), box)
            window(rest, thing)[:] = 0
        assert {data.classes[instance.label] for instance in image.instances} == {
            list(TINTS)[tint_of(rest, list(TINTS.values()))]
        }
        ys, xs = np.nonzero(rest.any(-1))  # only the cue is left
        assert np.ptp(ys) + 1 == np.ptp(xs) + 1 == CUE and (ys.min(), xs.min()) == (cue.top, cue.left)


def test_digits_hide_nothing_and_lie_farther_from_the_cue_than_the_gap():
    data = Scenes("train", size=300)
    for index in range(300):
        things, cue = data.compose(index)
        for thing in things:
            assert SIDES[0] <= thing.side <= SIDES[1]
            assert 0 <= thing.top <= HEIGHT - thing.side and 0 <= thing.left <= data.width - thing.side
            assert max(cue.left - thing.left - thing.side, thing.left - cue.left - CUE) >= data.gap
        for a, b in itertools.combinations(things, 2):
            apart = max(
                b.top - a.top - a.side, a.top - b.top - b.side, b.left - a.left - a.side, a.left - b.left - b.side
            )
            assert apart >= 0


@pytest.mark.parametrize("geometry", ["small", "paper"])
def test_a_network_of_one_residual_block_a_stage_does_not_see_the_cue_from_a_digit(geometry):
    """A proposal that overlaps a digit by one half or more ends at most one side of the digit beyond the digit."""
    config = ResNetConfig(blocks_per_stage=(1, 1, 1, 1), geometry=geometry)
    assert reach(config, level=2) + SIDES[1] <= Scenes("train", size=1).gap


def test_nothing_but_the_cue_tells_the_class():
    """The class is independent of the number, tint, size and place of the digits, and of the place of the cue."""
    data = Scenes("train", size=3000)
    facts = {"tint": [], "side": [], "row": [], "end": [], "count": [], "height": []}
    labels = []
    for index in range(3000):
        things, cue = data.compose(index)
        labels.append(cue.tint)
        facts["tint"].append(things[0].tint)
        facts["side"].append(things[0].side > 23)
        facts["row"].append(things[0].top // 32)
        facts["end"].append(cue.left > 100)
        facts["count"].append(len(things))
        facts["height"].append(cue.top > 40)
    labels = np.array(labels)
    assert (np.abs(np.bincount(labels) / 750 - 1) < 0.12).all()
    for name, values in facts.items():
        for value in np.unique(values):
            shares = np.bincount(labels[np.array(values) == value], minlength=4) / np.sum(np.array(values) == value)
            assert np.abs(shares - 0.25).max() < 0.08, name


def test_whoever_names_by_chance_scores_a_quarter_and_finds_everything():
    truth = Scenes("validation", size=100).coco()
    sure = [
        {name: one[name] for name in ("image_id", "category_id", "bbox", "segmentation")} | {"score": 0.9}
        for one in truth["annotations"]
    ]
    guessed = [one | {"category_id": category, "score": 0.25} for one in sure for category in (1, 2, 3, 4)]
    for iou_type in ("bbox", "segm"):
        assert evaluate(truth, sure, iou_type).figures["AP"] == pytest.approx(1)
        assert 0.2 < evaluate(truth, guessed, iou_type).figures["AP"] < 0.36
        names_apart = evaluate(truth, without_categories(guessed), iou_type, use_categories=False)
        assert names_apart.figures["AP"] == pytest.approx(1)


def test_a_control_has_the_cue_beside_the_digits():
    data = Scenes("train", size=20, gap=4)
    for index in range(20):
        things, cue = data.compose(index)
        near = min(max(cue.left - thing.left - thing.side, thing.left - cue.left - CUE) for thing in things)
        assert 4 <= near <= 4 + 72


def test_the_hash_names_the_scenes():
    def named(split="train", size=10, **options):
        return Scenes(split, size=size, **options).list_hash()

    assert named() == named() and len(named()) == 12
    changes = ({"split": "test"}, {"size": 11}, {"seed": 1}, {"width": 224}, {"gap": 8}, {"cues": 3}, {"noise": 0})
    assert len({named(), *(named(**change) for change in changes), named(digits=(1, 2))}) == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "split='val' is unknown; choose one of train, validation, test"),
        ({"size": 0}, "size=0 is out of range; choose 1 or more"),
        ({"width": 60}, "width=60 is out of range; choose 88 or more"),
        ({"width": 200}, "width=200 is out of range; choose a multiple of 32"),
        ({"gap": 105}, "gap=105 is out of range; choose 0 to 104"),
        ({"cues": 5}, "cues=5 is out of range; choose 2 to 4"),
        ({"digits": (3, 2)}, r"digits=\(3, 2\) is out of range; choose \(lowest, highest\) of 1 to 6"),
        ({"noise": 256}, "noise=256 is out of range"),
    ],
)
def test_bad_arguments_name_field_value_and_choices(options, message):
    with pytest.raises(InputError, match=message):
        Scenes(**({"split": "train", "size": 10} | options))


def test_an_index_past_the_end_is_refused():
    with pytest.raises(InputError, match="index=10 is out of range; choose 0 to 9"):
        Scenes("train", size=10).pixels(10)
