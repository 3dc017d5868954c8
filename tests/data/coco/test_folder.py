import io
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from pycocotools import mask as rasters

from nl_jax.data.coco.folder import CocoFolder
from nl_jax.data.coco.images import bucket_of, is_turned, read_image, resize, scaled_size
from nl_jax.data.coco.keypoints import pairs_by_name
from nl_jax.data.coco.masks import GRID, run_lengths
from nl_jax.data.dataset import Dataset
from nl_jax.data.loader import TrainBatches, test_batches
from nl_jax.data.media.failure import DecodeError
from nl_jax.errors import InputError

SIZES = {"short_sides": (64,), "long_side": 96, "test_short_side": 64, "max_boxes": 3}


def folder_of(files, **options):
    folder, file, _ = files
    return CocoFolder(folder, file, **({"training": True} | SIZES | options))


def draws(data, index=0, count=12):
    return [data.train_example(index, np.random.default_rng(seed)) for seed in range(count)]


def test_an_example_has_the_image_and_its_truth_scaled_and_padded(coco_set):
    files = coco_set()
    data = folder_of(files, flip=False)
    assert isinstance(data, Dataset)
    example = draws(data, count=1)[0]
    assert (
        data.names == ["wide.jpg", "tall.png", "square.jpg"] and data.unused == 1 and data.classes == ("roof", "leaf")
    )
    assert example["images"].shape == (64, 96, 3) and example["images"].dtype == np.uint8
    assert example["sizes"].tolist() == [60, 96] and example["scale"].tolist() == [1, 1]  # the long side decides
    stored = np.array(PIL.Image.open(files[0] / "wide.jpg"))
    assert np.abs(example["images"][:60].astype(int) - stored).mean() < 2
    assert not example["images"][60:].any()
    np.testing.assert_array_equal(example["boxes"], [[10, 10, 60.5, 50], [0, 0, 96, 10], [0, 0, 0, 0]])
    assert example["classes"].tolist() == [0, 1, 0] and example["crowd"].tolist() == [False, True, False]
    assert example["valid"].tolist() == [True, True, False]
    assert example["image_id"] == 3 and example["index"] == 0 and (example["failed"] == -1).all()
    assert example["masks"].shape == (3, 112, 112) and example["masks"][1].all() and not example["masks"][2].any()
    assert 0.2 < example["masks"][0].mean() < 0.6


def test_a_tall_image_has_the_other_bucket(coco_set):
    data = folder_of(coco_set(), flip=False)
    example = draws(data, 1, 1)[0]
    assert example["images"].shape == (96, 64, 3) and data.groups.tolist() == [0, 1, 0]
    square = draws(data, 2, 1)[0]
    assert square["images"].shape == (64, 96, 3) and square["sizes"].tolist() == [64, 64]
    np.testing.assert_allclose(square["scale"], 0.8)
    np.testing.assert_allclose(square["boxes"][0], np.array([10, 10, 12, 40]) * 0.8, rtol=1e-6)


def test_half_of_the_examples_are_mirrored_with_all_that_is_in_them(coco_set):
    data = folder_of(coco_set())
    plain = draws(folder_of_same(data, flip=False), count=1)[0]
    found = draws(data, count=30)
    mirrored = [e for e in found if e["boxes"][0, 0] != 10]
    assert 8 < len(mirrored) < 22
    for example in mirrored:
        np.testing.assert_array_equal(example["images"][:60], plain["images"][:60, ::-1])
        np.testing.assert_array_equal(example["boxes"][0], [96 - 60.5, 10, 86, 50])
        assert not example["boxes"][2].any()
        np.testing.assert_array_equal(example["masks"], plain["masks"][:, :, ::-1])


def folder_of_same(data, **options):
    return CocoFolder(data._folder, data._folder.parent / "instances.json", **({"training": True} | SIZES | options))


def test_the_short_side_is_drawn_from_the_list(coco_set):
    data = folder_of(coco_set(), short_sides=(32, 40, 48), long_side=96)
    assert {e["sizes"][0] for e in draws(data, count=30)} == {32, 40, 48}
    assert {e["images"].shape for e in draws(data)} == {(64, 96, 3)}  # one bucket for all scales, and for testing


def test_an_example_is_a_function_of_its_number_and_the_state_of_the_generator(coco_set):
    data = folder_of(coco_set(), short_sides=(32, 64))
    for index in range(3):
        for a, b in zip(draws(data, index, 4), draws(data, index, 4), strict=True):
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])


def test_of_too_many_boxes_some_are_kept_at_random_and_that_is_told(coco_set):
    def many(content, folder):
        first = content["annotations"][0]
        content["annotations"] = [first | {"id": i, "bbox": [i, 10, 20, 20]} for i in range(1, 8)]

    data = folder_of(coco_set(many), flip=False)
    assert data.crowded == {"wide.jpg": 7}
    kept = [tuple(e["boxes"][:, 0]) for e in draws(data)]
    assert all(len(set(boxes)) == 3 and list(boxes) == sorted(boxes) for boxes in kept)
    assert len(set(kept)) > 3 and set(np.ravel(kept)) == set(range(1, 8))


def test_without_masks_none_are_made(coco_set):
    assert "masks" not in draws(folder_of(coco_set(), masks=False), count=1)[0]


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools on a new NumPy
def test_masks_are_those_that_pycocotools_rasterises(coco_set):
    data = folder_of(coco_set(), flip=False)
    for index in range(3):
        image, example = data.annotated(index), draws(data, index, 1)[0]
        for instance, drawn in zip(image.instances, example["masks"], strict=False):
            whole = rasters.decode(run_lengths(instance.segmentation, image.height, image.width)).astype(float)
            x0, y0, x1, y1 = image.box(instance)
            fine = np.repeat(np.repeat(whole, 14, 0), 14, 1)[int(y0 * 14) : int(y1 * 14), int(x0 * 14) : int(x1 * 14)]
            y, x = (np.linspace(0, side - 1e-6, GRID * 8 * 2 + 1)[1::2].astype(int) for side in fine.shape)
            true = fine[np.ix_(y, x)].reshape(GRID, 8, GRID, 8).mean((1, 3))
            mean = drawn.reshape(GRID, 4, GRID, 4).mean((1, 3))
            assert np.minimum(mean, true).sum() / np.maximum(mean, true).sum() > 0.97


def test_test_examples_are_plain_and_all_images_are_tested(coco_set):
    data = folder_of(coco_set(), training=False)
    assert len(data) == 4
    example = data.test_example(3)
    assert set(example) == {"images", "sizes", "scale", "image_id", "index", "failed"}
    assert example["image_id"] == 40 and (example["failed"] == -1).all()


def broken(name, data=b"broken"):
    def change(content, folder):
        (folder / name).write_bytes(data)

    return change


def test_an_image_that_does_not_decode_is_replaced_in_training_and_counted_in_testing(coco_set):
    data = folder_of(coco_set(broken("wide.jpg")))
    example = draws(data, count=1)[0]
    assert example["index"] == 0 and example["failed"].tolist()[:2] == [0, -1]
    assert example["image_id"] == 12 and example["images"].shape == (64, 96, 3)  # the other image of the group
    tested = data.test_example(0)
    assert tested["failed"][0] == 0 and not tested["images"].any() and tested["sizes"].tolist() == [60, 96]
    assert data.failure_reason(0) and data.failure_reason(1) == "it decodes now"


def test_when_no_image_of_a_group_decodes_the_run_ends(coco_set):
    data = folder_of(coco_set(broken("tall.png")))
    with pytest.raises(
        DecodeError,
        match=r"images: 1 of 3 images tried, none can be decoded: tall.png; the first: the size of the image",
    ):
        draws(data, 1, 1)


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def saved(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.unlink(), "there is no such file"),
        (half, "no whole image can be decoded"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_text("hello" * 50), "the size of the image cannot be read"),
        (lambda path: path.write_bytes(saved(PIL.Image.new("RGB", (50, 60)), format="JPEG")), "found 50 x 60 pixels"),
    ],
)
def test_an_image_that_is_none_is_told_with_the_reason(coco_set, make, words):
    def change(content, folder):
        make(folder / "wide.jpg")

    data = folder_of(coco_set(change))
    with pytest.raises(DecodeError, match=words):
        data.pixels(0)
    assert words in data.failure_reason(0)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"format": "PNG"}),  # named .jpg
        ("L", {"format": "PNG"}),
        ("RGBA", {"format": "PNG"}),
        ("I;16", {"format": "PNG"}),
        ("RGB", {"format": "JPEG", "progressive": True}),
        ("L", {"format": "JPEG"}),
        ("CMYK", {"format": "JPEG"}),
    ],
)
def test_images_of_every_kind_are_rgb(tmp_path, mode, options):
    grey = np.tile(np.linspace(0, 255, 96).astype(np.uint8), (60, 1))
    image = PIL.Image.fromarray(grey.astype(np.uint16) * 257 if mode == "I;16" else grey)
    (tmp_path / "a.jpg").write_bytes(saved(image if mode == "I;16" else image.convert(mode), **options))
    read = read_image(tmp_path / "a.jpg", 96, 60)
    assert read.shape == (60, 96, 3) and np.abs(read.astype(int) - grey[:, :, None]).mean() < 3


def test_sizes_are_those_of_the_recipe():
    assert scaled_size(480, 640, 800, 1333) == (800, 1067)
    assert scaled_size(640, 480, 800, 1333) == (1067, 800)
    assert scaled_size(300, 1000, 800, 1333) == (400, 1333)
    assert scaled_size(3, 9000, 800, 1333) == (1, 1333)
    assert bucket_of(800, 1333) == (800, 1344)


def test_an_image_is_resized_as_the_mean_of_what_a_pixel_covers():
    image = np.random.default_rng(0).integers(256, size=(48, 64, 3), dtype=np.uint8)
    smooth = image.reshape(24, 2, 32, 2, 3)
    assert np.abs(resize(image, 24, 32) - smooth.mean((1, 3))).mean() < 20  # a triangle over 4 pixels, not a box over 2
    flat = np.full((48, 64, 3), 77, np.uint8)
    assert (resize(flat, 100, 30) == 77).all() and resize(flat, 100, 30).shape == (100, 30, 3)


def test_left_and_right_keypoints_change_places():
    names = ("nose", "left_eye", "right_eye", "right_ear", "left_ear", "tail")
    assert pairs_by_name(names) == ((1, 2), (3, 4))


def test_keypoints_are_scaled_and_mirrored(coco_set):
    def change(content, folder):
        content["categories"] = [{"id": 2, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"]}]
        content["annotations"] = [entry for entry in content["annotations"] if entry["category_id"] == 2]
        content["annotations"][0]["keypoints"] = [20, 20, 2, 30, 21, 1, 0, 0, 0]
        content["annotations"][1]["keypoints"] = [0] * 9

    data = folder_of(coco_set(change), keypoints=True)
    assert data.names == ["wide.jpg"] and data.unused == 3  # the other images have no labelled keypoint
    seen = {tuple(map(tuple, e["keypoints"][0].tolist())) for e in draws(data)}
    assert seen == {
        ((20.5, 20.5, 2), (30.5, 21.5, 1), (0, 0, 0)),
        ((75.5, 20.5, 2), (0, 0, 0), (65.5, 21.5, 1)),
    }
    truth = data.coco()
    assert truth["annotations"][0]["keypoints"] == [20, 20, 2, 30, 21, 1, 0, 0, 0]
    assert truth["annotations"][0]["num_keypoints"] == 2 and truth["categories"][0]["keypoints"][1] == "left_eye"


def test_the_list_has_a_name_that_changes_with_its_boxes(coco_set):
    files = coco_set()
    data, other = folder_of(files), folder_of(files, masks=False)
    assert data.list_hash() == other.list_hash() and len(data.list_hash()) == 12
    file = Path(files[1])
    file.write_text(file.read_text().replace("50.5", "51.5"))
    assert folder_of(files).list_hash() != data.list_hash()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"short_sides": ()}, "short_sides: found \\(\\), valid are integers from 32"),
        ({"short_sides": (16,)}, "short_sides"),
        ({"test_short_side": 0}, "test_short_side: found 0"),
        ({"long_side": 50}, "long_side: found 50, valid is at least every short side"),
        ({"max_boxes": 0}, "max_boxes: found 0"),
        ({"classes": ("a",)}, "not the requested ones; found roof, leaf, valid is a$"),
    ],
)
def test_bad_options_are_named(coco_set, options, words):
    with pytest.raises(InputError, match=words):
        folder_of(coco_set(), **options)


def test_a_split_may_lack_categories_of_the_network(coco_set):
    files = coco_set()
    plain = folder_of(files, training=False)
    data = folder_of(files, training=False, classes=("leaf", "stone", "roof"))
    assert data.classes == ("leaf", "stone", "roof") and data.category_ids == (7, 8, 2)
    truth, other = plain.coco(), data.coco()
    assert other["annotations"] == truth["annotations"] and other["images"] == truth["images"]
    assert {(one["id"], one["name"]) for one in other["categories"]} == {(7, "leaf"), (8, "stone"), (2, "roof")}
    assert data.list_hash() == plain.list_hash()
    with pytest.raises(InputError, match="not the requested ones; found roof, valid is leaf, stone"):
        folder_of(files, classes=("leaf", "stone"))


def test_a_set_without_anything_to_learn_is_refused(coco_set):
    def crowds(content, folder):
        for entry in content["annotations"]:
            entry["iscrowd"] = 1

    files = coco_set(crowds)
    with pytest.raises(
        InputError, match="none of its 4 images has an object to learn from: all 4 annotations have iscrowd 1"
    ):
        folder_of(files)
    with pytest.raises(InputError, match="the folder does not exist"):
        folder_of((files[0] / "no", *files[1:]))


@pytest.mark.parametrize(
    ("fields", "options", "words"),
    [
        (None, {}, "none of its 4 images has an annotation that can be used$"),
        ({"bbox": []}, {}, "has an annotation that can be used; 4 of kind 'box'"),
        ({"segmentation": []}, {}, "4 of kind 'mask'.*; to train on boxes alone, set detector.masks=False"),
        ({"keypoints": [0] * 6}, {"masks": False, "keypoints": True}, "has an object with a labelled keypoint$"),
    ],
)
def test_the_reason_is_told_when_no_image_can_be_trained_on(coco_set, fields, options, words):
    def change(content, folder):
        content["categories"] = [one | {"keypoints": ["head", "tail"]} for one in content["categories"]]
        content["annotations"] = [one | fields for one in content["annotations"] if fields]

    with pytest.raises(InputError, match=words):
        folder_of(coco_set(change), **options)


def test_batches_hold_images_of_one_bucket_and_resume_bit_for_bit(coco_set):
    data = folder_of(coco_set(), short_sides=(32, 64))
    batches = TrainBatches(data, batch_size=2, seed=5, groups=data.groups)
    seen = [next(batches) for _ in range(6)]
    assert {batch["images"].shape for batch in seen} == {(2, 64, 96, 3), (2, 96, 64, 3)}
    for workers, rows in ((0, None), (2, None), (0, (1,))):
        other = TrainBatches(data, batch_size=2, seed=5, groups=data.groups, num_workers=workers, rows=rows)
        other.set_state({"next_batch": 3})
        again = [next(other) for _ in range(3)]
        other.close()
        for a, b in zip(seen[3:], again, strict=True):
            for name in a:
                np.testing.assert_array_equal(a[name] if rows is None else a[name][list(rows)], b[name])


def test_every_image_is_tested_once(coco_set):
    data = folder_of(coco_set(), training=False)
    batches = list(test_batches(data, batch_size=2, groups=data.groups))
    index = np.concatenate([batch["index"][batch["valid"]] for batch in batches])
    assert sorted(index) == [0, 1, 2, 3]
    assert [batch["images"].shape[1:3] for batch in batches] == [(64, 96), (64, 96), (96, 64)]


@pytest.mark.parametrize("tag", range(1, 9))
def test_an_orientation_tag_is_obeyed_as_the_size_in_the_file_says(tmp_path, tag):
    grey = np.tile(np.linspace(20, 230, 96).astype(np.uint8), (60, 1))
    grey[:20] //= 2
    exif = PIL.Image.Exif()
    exif[0x112] = tag
    file = tmp_path / "a.jpg"
    file.write_bytes(saved(PIL.Image.fromarray(grey), format="JPEG", exif=exif, quality=95))
    upright = np.array(PIL.ImageOps.exif_transpose(PIL.Image.open(file)))
    height, width = upright.shape
    found = read_image(file, width, height)
    assert found.shape == (height, width, 3) and np.abs(found.astype(int) - upright[:, :, None]).mean() < 3
    assert not is_turned(file, width, height)
    if tag > 4:  # a quarter turn: annotations on the stored pixels say the stored size
        found = read_image(file, 96, 60)
        assert np.abs(found.astype(int) - grey[:, :, None]).mean() < 3 and is_turned(file, 96, 60)
