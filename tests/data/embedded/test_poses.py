import numpy as np
import pytest

from nl_jax.data.coco.keypoints import COCO_NAMES
from nl_jax.data.dataset import Dataset
from nl_jax.data.embedded.poses import CLOTHES, HEELS, HEIGHT, SHOE, SPLITS, TOES, WIDTH, Poses, poses
from nl_jax.errors import InputError
from nl_jax.evaluation.coco import evaluate
from nl_jax.evaluation.keypoints import ap_by_keypoint, confusions
from nl_jax.models.field_of_view import region_view
from nl_jax.models.resnet import ResNetConfig

LEFT = [place for place, name in enumerate(COCO_NAMES) if name.startswith("left")]
RIGHT = [place for place, name in enumerate(COCO_NAMES) if name.startswith("right")]


def test_a_picture_is_the_same_for_the_same_seed_split_and_index():
    data = Poses("train", size=10)
    assert isinstance(data, Dataset) and data.names[3] == "3" and data.classes == ("figure",)
    a, b = (Poses("train", size=10).train_example(3, np.random.default_rng(0)) for _ in range(2))
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    assert a["images"].shape == (HEIGHT, WIDTH, 3) and a["keypoints"].shape == (1, 17, 3) and a["valid"].all()
    for other in (Poses("train", size=10, seed=1), Poses("validation", size=10)):
        assert (other.pixels(3) != a["images"]).any()
    hashes = {Poses(*args, **kw).list_hash() for args in (("train",), ("test",)) for kw in ({"size": 9}, {"size": 8})}
    assert len(hashes) == 4


def test_splits_have_poses_of_their_own():
    found = {split: {pose.tobytes() for pose in poses(split)} for split in SPLITS}
    assert sum(map(len, found.values())) == len(set.union(*found.values())) > 1000
    assert all(pose[LEFT].mean(0)[0] > pose[RIGHT].mean(0)[0] for pose in poses("train"))  # all face the camera


def test_limbs_lie_where_keypoints_are_and_the_shoes_tell_the_side():
    data, seen = Poses("validation", size=30, noise=0), set()
    for index in range(30):
        picture, figure, image = data.pixels(index), data.compose(index), data.annotated(index)
        (instance,) = image.instances
        x0, y0, x1, y1 = map(int, image.box(instance))
        assert picture[y0:y1, x0:x1].any(-1).sum() == picture.any(-1).sum() == instance.area
        at = np.floor(figure.points[5:]).astype(int)
        at = at[(at >= 0).all(1) & (at[:, 0] < WIDTH)]
        colours = {tuple(picture[y, x].tolist()) for x, y in at}
        assert len(at) >= 11 and colours <= {CLOTHES[figure.clothes], TOES, HEELS}
        behind = (picture == HEELS).all(-1).any()
        assert behind == figure.behind != (picture == TOES).all(-1).any()
        labelled = instance.keypoints[:, 2] > 0
        assert labelled[3:].all() and labelled[:3].any() != behind
        np.testing.assert_allclose(instance.keypoints[labelled, :2] + 0.5, figure.points[labelled])
        seen.add(figure.behind)
    assert seen == {True, False}


def test_limbs_alone_tell_nothing_of_left_and_right():
    data, wrists = Poses("train", size=3000), {True: [], False: []}
    for index in range(3000):
        figure = data.compose(index)
        wrists[figure.behind].append(figure.points[9] - figure.points[10])
    for behind, apart in wrists.items():
        assert abs(len(apart) / 3000 - 0.5) < 0.04
        signs = np.sign(apart).mean(0)
        assert signs[0] < -0.7 if behind else signs[0] > 0.7  # in a front view the left wrist is on the right
        assert abs(signs[1]) < 0.08  # height does not tell the wrists apart


def test_who_guesses_the_side_is_right_half_of_the_time():
    truth = Poses("test", size=60).coco()
    rng = np.random.default_rng(0)
    exact, guessed = [], []
    for one in truth["annotations"]:
        points = np.array(one["keypoints"]).reshape(17, 3)
        found = {name: one[name] for name in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        exact.append(found | {"keypoints": points.ravel().tolist()})
        if rng.integers(2):
            points[LEFT], points[RIGHT] = points[RIGHT], points[LEFT].copy()
        guessed.append(found | {"keypoints": points.ravel().tolist()})
    assert evaluate(truth, exact, "keypoints").figures["AP"] == pytest.approx(1)
    assert evaluate(truth, guessed, "keypoints").figures["AP"] < 0.5
    found = confusions(truth, exact)
    assert found.share() == 0 and found.commonest(3) == []
    found = confusions(truth, guessed)
    assert 0.35 < found.share() < 0.65
    assert all(other.split("_")[1] == name.split("_")[1] for _, name, other, *_ in found.commonest(5))
    alone = ap_by_keypoint(truth, exact)["figure"]
    assert list(alone) == list(COCO_NAMES) and min(alone.values()) == pytest.approx(1)


def test_a_shoulder_does_not_see_the_shoes_without_a_block():
    """Tests the baseline of configs/poses.py. The eight convolutions of the control reach the shoes."""
    backbone = ResNetConfig(blocks_per_stage=(1, 1, 1, 1), width=16, geometry="small")
    data, hidden = Poses("test", size=200), {2: np.zeros(17), 8: np.zeros(17)}
    for index in range(200):
        image, figure = data.annotated(index), data.compose(index)
        _, y0, _, y1 = image.box(image.instances[0])
        cell, shoes = (y1 - y0) / 14, figure.points[15:, 1].min() - SHOE
        for convolutions, count in hidden.items():
            # The deconvolution and the bilinear enlargement see one more bin on each side.
            low = figure.points[:, 1] + (convolutions + 1.5) * cell
            count += [max(region_view(backbone, y, y, level)[1] for level in (2, 3)) < shoes for y in low.tolist()]
    share = {name: hidden[2][place] / 200 for place, name in enumerate(COCO_NAMES)}
    assert share["left_shoulder"] == share["right_shoulder"] == share["left_ear"] == share["right_ear"] == 1
    assert min(share["left_elbow"], share["right_elbow"]) > 0.9
    assert min(share["left_wrist"], share["right_wrist"]) > 0.65
    assert share["left_ankle"] == share["right_ankle"] == 0
    assert hidden[8][[5, 6, 7, 8]].max() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "split='val' is unknown; choose one of train, validation, test"),
        ({"size": 0}, "size=0 is out of range; choose 1 or more"),
        ({"noise": 256}, "noise=256 is out of range; choose 0 to 255"),
    ],
)
def test_bad_arguments_name_field_value_and_choices(options, message):
    with pytest.raises(InputError, match=message):
        Poses(**({"split": "train", "size": 10} | options))
    with pytest.raises(InputError, match="index=10 is out of range"):
        Poses("train", size=10).pixels(10)
