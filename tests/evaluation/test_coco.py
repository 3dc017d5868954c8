import contextlib
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from nl_jax.data.coco.example import mirrored
from nl_jax.data.coco.keypoints import Keypoints, category
from nl_jax.data.coco.masks import compressed
from nl_jax.errors import InputError
from nl_jax.evaluation.coco import BOX_FIGURES, evaluate, matches, results, without_categories, write_results
from nl_jax.evaluation.keypoints import confusions

HEIGHT, WIDTH = 120, 160


def block(x, y, w, h):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


@pytest.fixture
def truth():
    """Returns six images: small, medium and large objects of two categories, one crowd, and one image without any."""
    rng = np.random.default_rng(0)
    annotations = []
    for number in range(5):
        for place in range(4):
            w, h = rng.integers(8, (20, 50, 78, 30)[place], 2)
            x, y = rng.integers(0, WIDTH - w), rng.integers(0, HEIGHT - h)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": (2, 7)[place % 2],
                    "bbox": [float(v) for v in (x, y, w, h)],
                    "area": float(w * h),
                    "iscrowd": int(place == 3 and number == 0),
                    "segmentation": compressed(block(x, y, w, h)),
                }
            )
    images = [{"id": n, "file_name": f"{n}.jpg", "height": HEIGHT, "width": WIDTH} for n in range(6)]
    names = [{"id": 2, "name": "roof"}, {"id": 7, "name": "leaf"}, {"id": 9, "name": "snow"}]
    return {"images": images, "annotations": annotations, "categories": names}


def perfect(truth):
    return [
        {name: one[name] for name in ("image_id", "category_id", "bbox", "segmentation")} | {"score": 1.0}
        for one in truth["annotations"]
        if not one["iscrowd"]
    ]


def noisy(truth, seed=1):
    """Returns boxes and masks: off by a few pixels, some twice, some of another category, and some false ones."""
    rng, found = np.random.default_rng(seed), []
    for one in truth["annotations"]:
        for _ in range(rng.integers(3)):
            x, y, w, h = (int(v) for v in np.array(one["bbox"]) + rng.integers(-2, 3, 4))
            x, y = max(x, 0), max(y, 0)
            found.append(
                {
                    "image_id": one["image_id"],
                    "category_id": one["category_id"] if rng.random() < 0.8 else 9,
                    "bbox": [x, y, max(w, 4), max(h, 4)],
                    "score": float(rng.random()),
                    "segmentation": compressed(block(x, y, max(w, 4), max(h, 4))),
                }
            )
    return found


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_the_truth_itself_scores_one(truth, iou_type, capsys):
    scores = evaluate(truth, perfect(truth), iou_type)
    assert tuple(scores.figures) == BOX_FIGURES and scores.images == 6
    for name in ("AP", "AP50", "AP75", "AR100", "AP_small", "AP_medium"):
        assert scores.figures[name] == pytest.approx(1), name
    assert scores.by_class["roof"] == scores.by_class["leaf"] == pytest.approx(1)
    assert np.isnan(scores.by_class["snow"])
    assert capsys.readouterr().out == ""


def test_what_lies_in_a_crowd_is_no_false_alarm(truth):
    crowd = next(one for one in truth["annotations"] if one["iscrowd"])
    x, y, w, h = crowd["bbox"]
    inside = {"image_id": 0, "category_id": crowd["category_id"], "bbox": [x, y, w / 2, h / 2], "score": 2.0}
    for found, expected in ((inside, 1), (inside | {"category_id": 2}, None)):
        scores = evaluate(truth, [*perfect(truth), found])
        assert scores.figures["AP"] == pytest.approx(1) if expected else scores.figures["AP"] < 1


def test_nothing_found_scores_zero(truth):
    scores = evaluate(truth, [])
    assert scores.figures["AP"] == scores.by_class["roof"] == 0


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_the_written_file_gives_pycocotools_alone_the_same_figures(truth, tmp_path, iou_type):
    found = noisy(truth)
    before = json.dumps([truth, found])
    scores = evaluate(truth, found, iou_type)
    assert json.dumps([truth, found]) == before  # the arguments are not changed
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    write_results(tmp_path / "detections.json", found)
    assert [file.name for file in tmp_path.glob("*.partial")] == []
    with contextlib.redirect_stdout(io.StringIO()):
        true = COCO(str(tmp_path / "truth.json"))
        evaluation = COCOeval(true, true.loadRes(str(tmp_path / "detections.json")), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expected = np.where(evaluation.stats == -1, np.nan, evaluation.stats)
    np.testing.assert_array_equal(list(scores.figures.values()), expected)
    assert 0.05 < scores.figures["AP"] < 0.95
    assert scores.figures["AP"] == pytest.approx((scores.by_class["roof"] + scores.by_class["leaf"]) / 2)


def test_names_do_not_count_where_categories_are_not_used(truth):
    swapped = [one | {"category_id": 9 - one["category_id"]} for one in perfect(truth)]
    assert evaluate(truth, swapped).figures["AP"] < 0.2
    assert evaluate(truth, swapped, use_categories=False).figures["AP"] == pytest.approx(1)
    assert evaluate(truth, swapped, use_categories=False).by_class == {}


def test_an_object_found_under_several_names_is_one_find():
    def find(box, score, category, image=0):
        return {"image_id": image, "category_id": category, "bbox": box, "score": score}

    first, again = find([10, 10, 40, 40], 0.4, 2), find([11, 10, 40, 40], 0.5, 7)
    apart, beside = find([90, 10, 40, 40], 0.1, 2), find([35, 10, 40, 40], 0.3, 2)
    elsewhere = find([10, 10, 40, 40], 0.2, 2, image=1)
    kept = without_categories([first, again, apart, beside, elsewhere])
    assert kept == [again, beside, apart, elsewhere]
    assert without_categories([]) == []


def test_a_detection_is_matched_to_one_object_of_its_class():
    images = [{"id": 5, "file_name": "5.jpg", "height": HEIGHT, "width": WIDTH}]
    objects = [(11, 2, [10, 10, 20, 20]), (12, 7, [60, 10, 20, 20])]
    annotations = [
        {"id": at, "image_id": 5, "category_id": category, "bbox": box, "area": 400.0, "iscrowd": 0}
        for at, category, box in objects
    ]
    truth = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 2, "name": "a"}, {"id": 7, "name": "b"}],
    }
    found = [
        (2, [12, 10, 20, 20], 0.6),
        (2, [10, 10, 20, 20], 0.9),  # the higher score of two
        (2, [60, 10, 20, 20], 0.8),  # another class
        (7, [60, 22, 20, 20], 0.7),  # IoU 0.25
        (7, [62, 10, 20, 20], 0.1),
    ]
    detections = [{"image_id": 5, "category_id": c, "bbox": box, "score": score} for c, box, score in found]
    assert matches(truth, detections).tolist() == [0, 11, 0, 0, 12]
    assert matches(truth, detections, iou=0.2).tolist() == [0, 11, 0, 12, 0]


def test_keypoints_are_scored():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(10, 90, (17, 2)), np.full((17, 1), 2)], 1)
    truth = {
        "images": [{"id": 5, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 1, "bbox": [5, 5, 90, 90], "area": 4000.0, "iscrowd": 0}
            | {"keypoints": points.ravel().tolist(), "num_keypoints": 17}
        ],
        "categories": [{"id": 1, "name": "person"}],
    }
    image = SimpleNamespace(id=5, height=HEIGHT, width=WIDTH)
    boxes, scale = np.array([[5, 5, 95, 95]], np.float32) * 2, np.full(2, 2, np.float32)
    seen = (points + np.array([0.5, 0.5, 0])) * (2, 2, 1)  # pixels of an image of twice the size, from the corner

    def score(shift):
        found = results(
            image,
            (1,),
            boxes,
            np.ones(1),
            np.zeros(1, int),
            scale=scale,
            keypoints=seen[None] + np.array([shift, 0, 0]),
        )
        return evaluate(truth, found, "keypoints").figures

    assert score(0)["AP"] == pytest.approx(1) and np.isnan(score(0)["AP_large"])
    assert 0 < score(12)["AP"] < 1 and score(200)["AP"] == 0


def people(rng, count, names):
    """Returns images with one annotated object each. Its k keypoints are at random places of its box."""
    annotations = []
    for number in range(count):
        points = np.concatenate([rng.uniform(10, 90, (len(names), 2)), np.full((len(names), 1), 2.0)], 1)
        one = {"id": number + 1, "image_id": number, "category_id": 1, "bbox": [5.0, 5, 90, 90], "area": 4000.0}
        annotations.append(one | {"iscrowd": 0, "keypoints": points.ravel().tolist(), "num_keypoints": len(names)})
    images = [{"id": n, "file_name": f"{n}.jpg", "height": HEIGHT, "width": WIDTH} for n in range(count)]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "hand", "keypoints": names}]}


def moved(truth, by, rng):
    """Returns detections of all objects, with keypoints moved by at most this many pixels."""
    found = []
    for one in truth["annotations"]:
        points = np.array(one["keypoints"]).reshape(-1, 3)
        points[:, :2] += rng.uniform(-by, by, points[:, :2].shape)
        fields = {name: one[name] for name in ("image_id", "category_id", "bbox")}
        found.append(fields | {"score": float(rng.random()), "keypoints": points.ravel().tolist()})
    return found


def test_categories_are_scored_with_sigmas_of_their_own():
    """pycocotools scores each category by itself. A category without keypoints has no part."""
    rng = np.random.default_rng(0)
    truth = people(rng, 8, ["wrist", "thumb", "ring"])
    found = moved(truth, 6, rng)
    alone = evaluate(truth, found, "keypoints").figures["AP"]
    assert alone == evaluate(truth, found, "keypoints", sigmas=(0.05,) * 3).figures["AP"]  # not of COCO's keypoints
    assert alone != evaluate(truth, found, "keypoints", sigmas=(0.1,) * 3).figures["AP"] and 0 < alone < 1
    others = people(rng, 8, ["tail", "paw"])
    of_others = moved(others, 6, rng)
    for one in (*others["annotations"], *of_others):
        one["category_id"] = 2
    for one in others["annotations"]:
        one["id"] += 8
    dog = {"id": 2, "name": "dog", "keypoints": ["tail", "paw"], "sigmas": [0.08, 0.03]}
    cart = {"id": 3, "name": "cart"}
    both = truth | {"categories": [truth["categories"][0], dog, cart]}
    both["annotations"] = truth["annotations"] + others["annotations"]
    scores = evaluate(both, found + of_others, "keypoints")
    of_dog = evaluate(others | {"categories": [dog]}, of_others, "keypoints").figures["AP"]
    assert scores.by_class == {"hand": alone, "dog": of_dog}
    assert scores.figures["AP"] == pytest.approx((alone + of_dog) / 2)


def test_flipped_twice_is_the_same_and_flipped_with_its_truth_scores_the_same():
    rng = np.random.default_rng(1)
    names = ["left_wrist", "right_wrist", "ring"]
    truth = people(rng, 12, names)
    found = moved(truth, 6, rng)
    keypoints = Keypoints([category(truth["categories"][0])])

    def flipped(entries):
        result = []
        for one in entries:
            points = np.array(one["keypoints"]).reshape(1, 3, 3) + np.array([0.5, 0.5, 0])
            x, y, w, h = one["bbox"]
            example = {"images": np.zeros((HEIGHT, WIDTH, 3), np.uint8), "sizes": np.array([HEIGHT, WIDTH])}
            example |= {"boxes": np.array([[x, y, x + w, y + h]]), "valid": np.ones(1, bool), "keypoints": points}
            seen = mirrored(example, keypoints.flip_order)
            x0, y0, x1, y1 = seen["boxes"][0].tolist()
            points = (seen["keypoints"] - np.array([0.5, 0.5, 0])).ravel().tolist()
            result.append(one | {"bbox": [x0, y0, x1 - x0, y1 - y0], "keypoints": points})
        return result

    once = flipped(found)
    for one, other in zip(flipped(once), found, strict=True):
        np.testing.assert_allclose(one["keypoints"], other["keypoints"])
    assert once[0]["keypoints"][:2] != found[0]["keypoints"][:2]
    turned = truth | {"annotations": flipped(truth["annotations"])}
    expected = evaluate(truth, found, "keypoints").figures
    assert 0.05 < expected["AP"] < 0.95
    assert evaluate(turned, once, "keypoints").figures == pytest.approx(expected, nan_ok=True)
    assert evaluate(truth, once, "keypoints").figures["AP"] < expected["AP"]


def test_confusions_are_counted_by_the_keypoint_that_lies_there():
    truth = people(np.random.default_rng(0), 1, ["left_eye", "right_eye", "tail"])
    points = [20, 20, 2, 60, 20, 2, 40, 80, 1]
    truth["annotations"][0]["keypoints"] = points
    found = {"image_id": 0, "category_id": 1, "bbox": [5, 5, 90, 90], "score": 0.9}
    swapped = found | {"keypoints": [59, 20, 1, 61, 20, 1, 5, 50, 1]}  # both at the right eye, and a tail at no place
    surer = found | {"score": 0.99, "bbox": [5, 5, 20, 20], "keypoints": points}  # a detection of another object
    result = confusions(truth, [swapped, surer])
    assert result.counts == {
        ("hand", "left_eye"): {"right_eye": 1},
        ("hand", "right_eye"): {"right_eye": 1},
        ("hand", "tail"): {"elsewhere": 1},
    }
    assert result.share() == 0.5 and result.share(("hand", "left_eye")) == 1
    assert np.isnan(result.share(("hand", "tail")))
    assert {mistake[2] for mistake in result.commonest(5)} == {"right_eye", "elsewhere"}


def test_detections_are_told_in_pixels_of_the_original():
    image = SimpleNamespace(id=8, height=HEIGHT, width=WIDTH)
    boxes = np.array([[20, 10, 60, 50], [0, 0, 5, 5], [100, 100, 140, 130]], np.float32)
    found = results(
        image,
        (2, 7, 9),
        boxes,
        np.array([0.75, 0.9, 0.5]),
        np.array([1, 0, 2]),
        scale=np.array([2.0, 2.0]),
        valid=np.array([True, False, True]),
        masks=np.ones((3, 28, 28)),
    )
    assert [one["bbox"] for one in found] == [[10, 5, 20, 20], [50, 50, 20, 15]]
    assert [one["category_id"] for one in found] == [7, 9] and [one["score"] for one in found] == [0.75, 0.5]
    assert found[0]["segmentation"] == compressed(block(10, 5, 20, 20))
    assert found[1]["segmentation"] == compressed(block(50, 50, 20, 15))
    json.dumps(found)


def test_bad_arguments_are_named(truth):
    with pytest.raises(InputError, match="iou_type: found 'boxes', valid are bbox, segm, keypoints"):
        evaluate(truth, [], "boxes")
    with pytest.raises(InputError, match="found image_id 77, valid are the ids of the 6 scored images"):
        evaluate(truth, [perfect(truth)[0] | {"image_id": 77}])
