import csv
import json
import shutil

import numpy as np
import PIL.Image
import pytest

from configs import coco
from nl_jax.data.coco.check import check, count_images, finish, summary, write_report
from nl_jax.data.coco.source import find_splits
from nl_jax.errors import InputError
from nl_jax.tasks import task_of
from nl_jax.tasks.image_splits import open_coco


@pytest.fixture
def source(coco_set, tmp_path):
    """source(damage) -> a dataset of two splits with different pixels. `damage` gets both folders."""

    def make(damage=None):
        folder, file, _ = coco_set()
        root = tmp_path / "set"
        for split in ("train2017", "val2017"):
            shutil.copytree(folder, root / split)
            (root / "annotations").mkdir(exist_ok=True)
            shutil.copy(file, root / "annotations" / f"instances_{split}.json")
        for path in (root / "val2017").iterdir():
            pixels = np.array(PIL.Image.open(path))
            PIL.Image.fromarray(255 - pixels).save(path)
        if damage:
            damage(root / "train2017", root / "val2017")
        return root

    return make


def checked(root, num_workers=0):
    splits = find_splits(root)
    return finish(
        line
        for lines in check(splits, masks=True, keypoints=False, num_workers=num_workers, timeout=60.0)
        for line in lines
    )


def told(lines):
    return {(line.split, line.problem.kind, line.problem.where or line.problem.file.split("/")[-1]) for line in lines}


def test_nothing_is_told_of_a_sound_set(source, tmp_path):
    root = source()
    lines = checked(root)
    assert lines == [] and summary(lines) == {} and count_images(find_splits(root)) == 8
    write_report(tmp_path / "report", "a set", lines)
    assert "Nothing is wrong" in (tmp_path / "report" / "index.html").read_text()


def rewrite(path, **options):
    PIL.Image.open(path).save(path, **options)


def exif(path, tag):
    entry = PIL.Image.Exif()
    entry[0x112] = tag
    return {"format": "JPEG", "exif": entry}


def cut(path):
    path.write_bytes(path.read_bytes()[:1000])


def edit(folder, change):
    file = folder.parent / "annotations" / f"instances_{folder.name}.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def elsewhere(content):
    content["annotations"][2]["bbox"] = [44, 70, 15, 15]


IMAGES = {
    "missing": (lambda train, val: (train / "wide.jpg").unlink(), {("train2017", "missing", "image 3")}),
    "truncated": (lambda train, val: cut(train / "wide.jpg"), {("train2017", "unreadable", "image 3")}),
    "empty": (lambda train, val: (train / "tall.png").write_bytes(b""), {("train2017", "unreadable", "image 11")}),
    "png": (lambda train, val: rewrite(train / "wide.jpg", format="PNG"), {("train2017", "suffix", "image 3")}),
    "long name": (
        lambda train, val: edit(train, lambda content: content["images"][3].update(file_name="a" * 300)),
        {("train2017", "missing", "image 40"), ("train2017", "unlisted", "empty.jpg")},
    ),
    "size": (
        lambda train, val: PIL.Image.new("RGB", (50, 60)).save(train / "wide.jpg"),
        {("train2017", "image size", "image 3")},
    ),
    "unlisted": (
        lambda train, val: PIL.Image.new("RGB", (50, 60)).save(train / "other.jpg"),
        {("train2017", "unlisted", "other.jpg")},
    ),
    "two splits": (
        lambda train, val: shutil.copy(train / "square.jpg", val / "square.jpg"),
        {("train2017", "two splits", "square.jpg"), ("val2017", "two splits", "square.jpg")},
    ),
    "mask elsewhere": (lambda train, val: edit(train, elsewhere), {("train2017", "mask", "annotation 102")}),
    "entry": (
        lambda train, val: edit(val, lambda content: content["annotations"][0].update(category_id=3)),
        {("val2017", "unknown category", "annotation 100")},
    ),
}


def test_another_spelling_of_a_path_is_the_same_file(source):
    assert checked(source(lambda train, val: edit(train, rename_first))) == []


def rename_first(content):
    content["images"][0]["file_name"] = "./wide.jpg"


@pytest.mark.parametrize("what", IMAGES)
def test_every_fault_is_told_once_and_nothing_else(source, what, tmp_path):
    damage, expected = IMAGES[what]
    lines = checked(source(damage))
    assert told(lines) == expected and len(lines) == len(expected)
    write_report(tmp_path / "report", "a set", lines)
    with (tmp_path / "report" / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["split"], row["kind"]) for row in rows} == {(split, kind) for split, kind, _ in expected}
    assert all(row["found"] and row["valid"] and row["result"] for row in rows)
    assert next(iter(expected))[1] in (tmp_path / "report" / "index.html").read_text()


def test_the_order_of_faults_does_not_depend_on_the_processes(source):
    def damage(train, val):
        cut(train / "wide.jpg")
        (val / "tall.png").unlink()

    root = source(damage)
    assert checked(root, num_workers=2) == checked(root)


def test_exported_folders_are_found(coco_set, tmp_path):
    folder, file, _ = coco_set()
    root = tmp_path / "export"
    shutil.copytree(folder, root / "train")
    shutil.copy(file, root / "train" / "_annotations.coco.json")
    assert find_splits(root) == {"train": (root / "train", root / "train" / "_annotations.coco.json")}
    assert checked(root) == []
    assert find_splits(root, "person_keypoints") == find_splits(root)  # this file may also have keypoints
    with pytest.raises(InputError, match=r"found neither annotations/person_keypoints_SPLIT.json"):
        find_splits(folder, "person_keypoints")
    (root / "annotations").mkdir()
    shutil.copy(file, root / "annotations" / "instances_val.json")
    with pytest.raises(InputError, match=r"instances_val.json: found no folder of its images"):
        find_splits(root)
    assert list(find_splits(root, split="train")) == ["train"]  # one may have the images of one split only
    with pytest.raises(InputError, match=r"has no split 'test', valid are val, train"):
        find_splits(root, split="test")


def test_a_folder_of_no_layout_is_told_with_the_layouts(tmp_path):
    words = "or a folder with annotations/instances_train.json or train/_annotations.coco.json"
    for folder in (tmp_path, tmp_path / "no"):
        with pytest.raises(InputError, match=f"{folder}: found none, valid is the directory of one dataset.*, {words}"):
            open_coco(f"{folder}:train", training=True)


def test_a_network_without_data_of_its_own_can_be_tested(coco_set):
    folder, file, _ = coco_set()
    config = coco.get_config("baseline").unlock()
    config.data.test = f"{folder}:{file}"
    assert task_of(config).open_split("test", ("leaf", "roof")).names == [
        "wide.jpg",
        "tall.png",
        "square.jpg",
        "empty.jpg",
    ]
    for split in ("train", "validation"):
        with pytest.raises(InputError, match=f"data.{split} is empty: give FILE.json"):
            task_of(config).open_split(split)


def test_one_file_with_a_folder_of_images_is_a_split(coco_set, tmp_path):
    folder, file, _ = coco_set()
    source = f"{folder}:{file}"
    assert find_splits(source) == {"instances": (folder, file)} and checked(source) == []
    assert find_splits(str(file)) == {"instances": (file.parent, file)}
    (tmp_path / "a:b").mkdir()
    shutil.copy(file, tmp_path / "a:b")
    assert find_splits(f"{tmp_path}/a:b/instances.json") == {
        "instances": (tmp_path / "a:b", tmp_path / "a:b" / "instances.json")
    }
    for missing in (f"{folder}:{folder}/no.json", f"{folder}/no:{file}"):
        with pytest.raises(InputError, match=r"there is no .*/no(.json)?, valid is FILE.json or IMAGES:FILE.json"):
            find_splits(missing)
