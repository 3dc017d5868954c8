import copy
import json
import re

import numpy as np
import pytest

from nl_jax.data.coco.annotations import read_annotations, told
from nl_jax.data.coco.detection import truth_of
from nl_jax.data.coco.keypoints import Category, Keypoints, pairs_by_name
from nl_jax.data.coco.problems import KINDS, counted
from nl_jax.errors import InputError


def read(coco_set, change=None, **options):
    return read_annotations(coco_set(change)[1], **options)


def test_a_sound_file_is_read_whole_and_nothing_is_told(coco_set):
    found = read(coco_set)
    assert found.problems == [] and told(found.problems) == "nothing is wrong"
    assert found.names == ("roof", "leaf") and found.category_ids == (2, 7)  # labels follow the ids, which have gaps
    assert [image.file_name for image in found.images] == ["wide.jpg", "tall.png", "square.jpg", "empty.jpg"]
    assert [len(image.instances) for image in found.images] == [2, 1, 1, 0]
    first, crowd = found.images[0].instances
    assert (first.id, first.label, first.crowd, first.bbox) == (100, 0, False, (10, 10, 50.5, 40))
    assert (crowd.label, crowd.crowd) == (1, True)
    np.testing.assert_array_equal(found.images[0].box(first), [10, 10, 60.5, 50])


def first(name, **fields):
    """Returns a change of the first entry of a list. A field with the value ... is removed."""

    def change(content, folder):
        entry = content[name][0]
        for field, value in fields.items():
            if value is ...:
                del entry[field]
            else:
                entry[field] = value

    return change


def annotation(**fields):
    return first("annotations", **fields)


def add(name, entry):
    def change(content, folder):
        content[name].append(copy.deepcopy(content[name][0]) | entry if isinstance(entry, dict) else entry)

    return change


TRIANGLE = [10, 10, 40, 10, 10, 40]
# ruff: noqa: E501
DAMAGE = {  # name: (the change, kind of fault, a part of the message, annotations that are left of 4)
    "a category that is not listed": (annotation(category_id=3), "unknown category", "category_id 3, valid is one of [2, 7]", 3),
    "a category as text": (annotation(category_id="2"), "entry", "category_id '2', valid is an integer", 3),
    "a category with a fraction": (annotation(category_id=2.5), "entry", "category_id 2.5, valid is an integer", 3),
    "an image that is not listed": (annotation(image_id=99), "unknown image", "image_id 99", 3),
    "no image": (annotation(image_id=...), "entry", "no image_id", 3),
    "a polygon of two points": (annotation(segmentation=[[1, 1, 5, 5]]), "mask", "a polygon of 4 values [1, 1, 5, 5]", 3),
    "a polygon of an odd number": (annotation(segmentation=[[*TRIANGLE, 3]]), "mask", "a polygon of 7 values", 3),
    "a polygon outside": (annotation(segmentation=[[-9, -9, -2, -9, -9, -2]]), "mask", "without area in the 96 x 60 image", 3),
    "a polygon very far": (annotation(segmentation=[[1, 1, 1e9, 1, 1, 1e9]]), "mask", "[1, 1, 1000000000.0", 3),
    "a polygon on a line": (annotation(segmentation=[[1, 1, 9, 1, 5, 1]]), "mask", "without area", 3),
    "a polygon on a slope": (annotation(segmentation=[[10, 10, 20, 20.1, 30, 30.2]]), "mask", "without area", 3),
    "a polygon outside its box": (
        annotation(segmentation=[[70, 10, 90, 10, 90, 40]]), "mask",
        "a mask in the box [70.0, 10.0, 90.0, 40.0] (x0, y0, x1, y1), valid is a mask that overlaps its bbox [10.0", 3),
    "run-lengths outside their box": (
        annotation(segmentation={"size": [60, 96], "counts": [5700, 60]}), "mask", "a mask in the box [95.0, 0.0, 96.0, 60.0]", 3),
    "a flat polygon": (annotation(segmentation=TRIANGLE), "mask", "a polygon 10", 3),
    "one part of two broken": (annotation(segmentation=[TRIANGLE, [1, 2]]), "mask", "this part is dropped", 4),
    "no mask": (annotation(segmentation=...), "mask", "no segmentation", 3),
    "an empty mask": (annotation(segmentation=[]), "mask", "segmentation []", 3),
    "run-lengths of another size": (
        annotation(segmentation={"size": [96, 60], "counts": [0, 5760]}), "mask", "run-lengths of size [96, 60]", 3),
    "run-lengths that are too few": (
        annotation(segmentation={"size": [60, 96], "counts": [0, 60]}), "mask", "add up to 60, valid is run-lengths", 3),
    "a negative run-length": (
        annotation(segmentation={"size": [60, 96], "counts": [-10, 5770]}), "mask", "a negative run-length", 3),
    "run-lengths without area": (
        annotation(segmentation={"size": [60, 96], "counts": [5760]}), "mask", "run-lengths without area", 3),
    "compressed run-lengths cut short": (
        annotation(segmentation={"size": [60, 96], "counts": "Pob"}), "mask", "counts 'Pob'", 3),
    "compressed run-lengths of noise": (annotation(segmentation={"size": [60, 96], "counts": "zé"}), "mask", "counts 'zé'", 3),
    "counts that are no counts": (annotation(segmentation={"size": [60, 96], "counts": 5}), "mask", "counts 5", 3),
    "a negative width": (annotation(bbox=[10, 10, -5, 5]), "box", "bbox [10, 10, -5, 5], valid is bbox: 4 finite", 3),
    "a width that is no number": (annotation(bbox=[10, 10, float("nan"), 5]), "box", "bbox [10, 10, nan, 5]", 3),
    "an infinite height": (annotation(bbox=[10, 10, 5, float("inf")]), "box", "bbox [10, 10, 5, inf]", 3),
    "a box without area": (annotation(bbox=[10, 10, 0, 5]), "box", "bbox [10, 10, 0, 5]", 3),
    "a box of three numbers": (annotation(bbox=[10, 10, 5]), "box", "bbox [10, 10, 5]", 3),
    "a box as text": (annotation(bbox="10 10 5 5"), "box", "bbox '10 10 5 5'", 3),
    "no box": (annotation(bbox=...), "box", "no bbox", 3),
    "a box outside": (annotation(bbox=[200, 10, 5, 5]), "box", "valid is a box inside the 96 x 60 image", 3),
    "a box that reaches out": (annotation(bbox=[50, 10, 80, 5]), "box outside", "clipped to the image", 4),
    "an annotation with a text as id": (annotation(id="100"), "entry", "id '100', valid is an integer", 3),
    "an annotation without id": (annotation(id=...), "entry", "annotation at place 0: found no id", 3),
    "an annotation that is none": (add("annotations", "none"), "entry", "annotation at place 4: found 'none'", 4),
    "a repeated annotation": (add("annotations", {}), "repeated id", "annotation 100: found the repeated id 100", 4),
    "no iscrowd": (annotation(iscrowd=...), "crowd", "no iscrowd, valid is 0 or 1; taken as 0", 4),
    "another iscrowd": (annotation(iscrowd=2), "crowd", "iscrowd 2, valid is 0 or 1", 4),
    "no area": (annotation(area=...), "area", "no area, valid is a number above 0; the area of the box is used", 4),
    "a negative area": (annotation(area=-1), "area", "area -1", 4),
    "an image with a text as id": (add("images", {"id": "5"}), "entry", "image '5': found id '5', valid is an integer", 4),
    "an image without height": (add("images", {"id": 5, "height": None}), "entry", "height None, valid is an integer from 1", 4),
    "an image of no width": (add("images", {"id": 5, "width": 0}), "entry", "width 0, valid is an integer from 1", 4),
    "an image without a name": (add("images", {"id": 5, "file_name": ""}), "entry", "file_name ''", 4),
    "an image of too many pixels": (
        add("images", {"id": 5, "width": 10**6, "height": 10**6}), "entry", "a size of 1000000 x 1000000 pixels, valid is at most", 4),
    "an image of a number that is too large": (add("images", {"id": 2**64}), "entry", "id 18446744073709551616", 4),
    "an image whose name no file has": (add("images", {"id": 5, "file_name": "a\0.jpg"}), "entry", "file_name 'a\\x00.jpg'", 4),
    "a category of half a letter": (add("categories", {"id": 9, "name": "\ud800"}), "entry", "name '\\ud800'", 4),
    "a repeated image": (add("images", {"file_name": "x.jpg"}), "repeated id", "image 3: found the repeated id 3", 4),
    "an image listed twice": (add("images", {"id": 5}), "repeated file", "wide.jpg, also of image 3", 4),
    "a repeated category": (add("categories", {"name": "x"}), "repeated id", "category 7: found the repeated id 7", 4),
    "a category of the same name": (add("categories", {"id": 9}), "repeated id", "the repeated name 'leaf'", 4),
    "a category without a name": (add("categories", {"id": 9, "name": None}), "entry", "name None", 4),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named_and_the_rest_is_kept(coco_set, what):
    change, kind, words, left = DAMAGE[what]
    found = read(coco_set, change)
    assert counted(found.problems) == {kind: 1} and kind in KINDS
    (problem,) = map(str, found.problems)
    assert "instances.json, " in problem and words in problem and ", valid is " in problem
    assert sum(len(image.instances) for image in found.images) == left
    assert all((image.box(one)[2:] > image.box(one)[:2]).all() for image in found.images for one in image.instances)


def test_an_image_that_is_dropped_takes_its_annotations_with_it_and_each_is_told(coco_set):
    found = read(coco_set, first("images", width="96"))
    assert counted(found.problems) == {"entry": 1, "unknown image": 2}
    assert "image 3: found width '96', valid is an integer from 1; dropped" in str(found.problems[0])


def test_a_whole_number_with_a_point_is_an_integer(coco_set):
    def change(content, folder):
        for entry in [*content["images"], *content["annotations"], *content["categories"]]:
            entry.update({key: float(value) for key, value in entry.items() if type(value) is int})

    found = read(coco_set, change)
    assert found.problems == [] and found.category_ids == (2, 7) and found.images[0].width == 96
    assert json.dumps(truth_of(found.images, found.names, found.category_ids)["images"][0]["id"]) == "3"


def test_categories_of_one_name_can_be_told_apart(coco_set):
    assert read(coco_set, add("categories", {"id": 9})).names == ("roof", "leaf", "leaf (9)")


def test_masks_are_not_looked_at_where_nobody_asks_for_them(coco_set):
    found = read(coco_set, annotation(segmentation=[[1, 1]]), masks=False)
    assert found.problems == [] and found.images[0].instances[0].segmentation is None


def test_a_missing_area_is_that_of_the_box(coco_set):
    assert read(coco_set, annotation(area=...)).images[0].instances[0].area == 50.5 * 40


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "the file is empty"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("\xff", "not JSON"),
        ("[]", "found \\[\\], valid is an object with the lists images, annotations, categories"),
        (
            '[{"image_id": 3, "category_id": 2, "score": 0.5, "bbox": [1, 2, 3, 4]}]',
            "a list of results, which have a score",
        ),
        ('{"images": []}', "found no annotations"),
        ('{"images": [], "annotations": {}, "categories": []}', "found annotations {}"),
        ('{"images": [], "annotations": [], "categories": []}', "no category that can be used"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no image of its 0 can be used"),
        ('{"images": [5], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no image of its 1 .* found 5"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content, words):
    file = tmp_path / "instances.json"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=f"instances.json: .*{words}"):
        read_annotations(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no.json: there is no such file"):
        read_annotations(tmp_path / "no.json")
    with pytest.raises(InputError, match="not a regular file"):
        read_annotations(tmp_path)


POINTS = ["nose", "left_eye", "right_eye"]


def with_keypoints(content, folder):
    content["categories"] = [{"id": 2, "name": "person", "keypoints": POINTS}]
    content["annotations"] = [entry for entry in content["annotations"] if entry["category_id"] == 2]
    for entry in content["annotations"]:
        entry["keypoints"] = [20, 20, 2, 30, 21, 1, 0, 0, 0]


def test_keypoints_are_read(coco_set):
    found = read(coco_set, with_keypoints, keypoints=True)
    assert found.problems == [] and found.keypoints.names == tuple(POINTS)
    np.testing.assert_array_equal(found.images[0].instances[0].keypoints, [[20, 20, 2], [30, 21, 1], [0, 0, 0]])


@pytest.mark.parametrize(("value", "words"), [(..., "no keypoints"), ([], r"keypoints \[\]"), (None, "keypoints None")])
def test_an_object_without_keypoints_keeps_its_box(coco_set, value, words):
    def change(content, folder):
        with_keypoints(content, folder)
        annotation(keypoints=value)(content, folder)

    found = read(coco_set, change, keypoints=True)
    (problem,) = found.problems
    assert re.search(f"found {words}, valid is keypoints: x, y and 0, 1 or 2 .*; taken as not labelled", str(problem))
    first = found.images[0].instances[0]
    assert first.id == 100 and not first.keypoints.any() and first.bbox == (10, 10, 50.5, 40)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([20, 20, 2], "keypoints of 3 values \\[20, 20, 2\\], valid is keypoints: x, y and 0, 1 or 2 for each of 3"),
        ([20, 20, 3, 30, 21, 1, 0, 0, 0], "visibility \\[3.0, 1.0, 0.0\\]"),
        ([20, None, 2, 30, 21, 1, 0, 0, 0], "None"),
    ],
)
def test_damaged_keypoints_are_named(coco_set, value, words):
    def change(content, folder):
        with_keypoints(content, folder)
        annotation(keypoints=value)(content, folder)

    found = read(coco_set, change, keypoints=True)
    assert counted(found.problems) == {"keypoints": 1}
    with pytest.raises(InputError, match=words):
        raise InputError(str(found.problems[0]))


def test_categories_have_keypoints_of_their_own(coco_set):
    """Keypoints with the same name are one keypoint. A category may have none."""

    def change(content, folder):
        with_keypoints(content, folder)
        content["categories"] += [{"id": 7, "name": "horse", "keypoints": ["tail", "nose"], "sigmas": [0.1, 0.02]}]
        content["categories"] += [{"id": 9, "name": "cart"}]
        entry = content["annotations"][0] | {"id": 900, "category_id": 7, "keypoints": [1, 2, 2, 3, 4, 1]}
        content["annotations"] += [entry, entry | {"id": 901, "category_id": 9}]

    found = read(coco_set, change, keypoints=True)
    assert found.problems == [] and found.keypoints.names == ("nose", "left_eye", "right_eye", "tail")
    horse, cart = found.images[0].instances[-2:]
    np.testing.assert_array_equal(horse.keypoints, [[3, 4, 1], [0, 0, 0], [0, 0, 0], [1, 2, 2]])
    assert not cart.keypoints.any() and found.keypoints.flip_order.tolist() == [0, 2, 1, 3]
    written = truth_of(found.images, found.names, found.category_ids, found.keypoints)
    person, of_horse, of_cart = written["categories"]
    assert person["sigmas"] == [0.026, 0.025, 0.025] and person["flip_pairs"] == [[2, 3]]
    assert of_horse["sigmas"] == [0.1, 0.02] and "keypoints" not in of_cart
    entries = [entry for entry in written["annotations"] if entry["category_id"] == 7]
    assert [(entry["keypoints"], entry["num_keypoints"]) for entry in entries] == [([1, 2, 2, 3, 4, 1], 2)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"skeleton": [[1, 4]]}, "skeleton [1, 4], valid is skeleton: pairs of different numbers from 1 to 3"),
        ({"flip_pairs": [[1, 2], [2, 3]]}, "valid is every keypoint in at most one pair"),
        ({"flip_pairs": [[1, 1]]}, "flip_pairs [1, 1]"),
        ({"sigmas": [0.1, 0.1]}, "sigmas [0.1, 0.1], valid is 3 numbers above 0"),
        ({"keypoints": ["nose", "nose", "ear"]}, "a unique name for each"),
        ({"keypoints": []}, "found no category with keypoints"),
    ],
)
def test_categories_with_keypoints_that_cannot_be_used(coco_set, fields, words):
    def change(content, folder):
        with_keypoints(content, folder)
        content["categories"][0] |= fields

    with pytest.raises(InputError, match=re.escape(words)):
        read(coco_set, change, keypoints=True)


def test_pairs_are_told_by_names_of_hands_and_animals():
    assert pairs_by_name(["L_Eye", "R_Eye", "Nose", "Left paw", "Right paw", "right_ear"]) == ((0, 1), (3, 4))
    hand = Keypoints([Category(("wrist", "thumb"), flip_pairs=())])
    assert hand.flip_order.tolist() == [0, 1]
    one, other = Category(("a", "b"), flip_pairs=((0, 1),)), Category(("a", "c"), flip_pairs=((0, 1),))
    with pytest.raises(InputError, match="exchanges the keypoint 'a' with 'b' in one category and with 'c' in another"):
        Keypoints([one, other])


def test_the_file_is_read_in_any_utf8(coco_set):
    def change(content, folder):
        content["categories"][0]["name"] = "Blätter 🍂"
        (folder.parent / "instances.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8-sig")

    assert read(coco_set, change).names == ("roof", "Blätter 🍂")
