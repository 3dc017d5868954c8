import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from nl_jax.data.coco.folder import CocoFolder
from nl_jax.data.coco.records import Coco, PreparedCoco, config_of, write_annotations
from nl_jax.data.loader import TrainBatches
from nl_jax.errors import InputError

SIZES = {"short_sides": (64,), "long_side": 96, "test_short_side": 64, "max_boxes": 3}


@pytest.fixture
def prepared(coco_set, tmp_path):
    """The folder, its annotation file, and the directory of the prepared dataset. One image file is missing."""

    def damage(content, folder):
        (folder / "square.jpg").unlink()
        content["annotations"][0]["category_id"] = 99  # one annotation that cannot be used

    folder, file, _ = coco_set(damage)
    splits = {"train": (folder, file)}
    builder = Coco(config=config_of("instances"), data_dir=tmp_path / "out")
    builder.splits = splits
    builder.download_and_prepare(
        download_dir=tmp_path / "downloads", download_config=tfds.download.DownloadConfig(manual_dir=folder)
    )
    written = write_annotations(Path(builder.data_path), splits, "instances")
    assert len(written["train"].problems) == 1
    return folder, file, tmp_path / "out"


def test_records_give_the_examples_of_the_folder(prepared):
    folder, file, out = prepared
    for training in (True, False):
        plain = CocoFolder(folder, file, training=training, **SIZES)
        data = PreparedCoco(out, "train", training=training, **SIZES)
        assert data.problems == [] and len(data) == len(plain) == (2 if training else 4)
        assert data.names == plain.names and data.list_hash() == plain.list_hash()
        assert data.classes == plain.classes and data.category_ids == plain.category_ids
        for index in range(len(data)):
            a, b = data.test_example(index), plain.test_example(index)
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])
    assert "the file did not exist" in data.failure_reason(2) and data.failure_reason(1) == "it decodes now"
    assert data.coco() == plain.coco()


def test_records_are_read_in_worker_processes(prepared):
    out = prepared[2]
    data = PreparedCoco(out, "train", training=True, **SIZES)
    batches = [
        next(TrainBatches(data, batch_size=1, seed=0, groups=data.groups, num_workers=workers)) for workers in (0, 1)
    ]
    for name in batches[0]:
        np.testing.assert_array_equal(batches[0][name], batches[1][name])


def test_boxes_without_masks_are_prepared_where_none_are_asked_for(coco_set, tmp_path):
    def change(content, folder):
        for entry in content["annotations"]:
            entry["segmentation"] = []

    folder, file, _ = coco_set(change)
    for masks, count in ((True, 0), (False, 4)):
        found = write_annotations(tmp_path, {"train": (folder, file)}, "instances", masks=masks)["train"]
        assert sum(len(image.instances) for image in found.images) == count
        assert len(found.problems) == 4 - count
    assert "segmentation" not in json.loads((tmp_path / "annotations_train.json").read_text())["annotations"][0]


def test_what_is_not_prepared_is_named(prepared, tmp_path):
    with pytest.raises(InputError, match=r"has no split 'val', valid are train"):
        PreparedCoco(prepared[2], "val", training=True)
    with pytest.raises(InputError, match="valid is the directory of one dataset"):
        PreparedCoco(tmp_path / "no", "train", training=True)
    with pytest.raises(InputError, match="annotations: found 'captions', valid are instances and person_keypoints"):
        config_of("captions")
    shutil.rmtree(prepared[2])
