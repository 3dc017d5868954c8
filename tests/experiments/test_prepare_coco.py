"""`prepare_data --dataset=coco` as a user types it: its datasets, its checks and its errors."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from nl_jax.data.coco.records import PreparedCoco

ROOT = Path(__file__).parents[2]


def run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "experiments.prepare_data", "--dataset=coco", "--num_workers=1", *arguments]
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Two splits of three images with one square each. One file of the second split is half an image."""
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    rng = np.random.default_rng(0)
    for split in ("train2017", "val2017"):
        (root / split).mkdir()
        images, annotations = [], []
        for number in range(3):
            PIL.Image.fromarray(rng.integers(256, size=(64, 96, 3), dtype=np.uint8)).save(
                root / split / f"{number}.jpg"
            )
            images.append({"id": number, "file_name": f"{number}.jpg", "height": 64, "width": 96})
            corners = [10, 10, 40, 10, 40, 40, 10, 40]
            entry = {"id": number + 1, "image_id": number, "category_id": 5, "bbox": [10, 10, 30, 30], "area": 900}
            annotations.append(entry | {"iscrowd": 0, "segmentation": [corners]})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 5, "name": "square"}]}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    broken = root / "val2017" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:1000])
    return root


def test_a_data_set_is_prepared_once_and_can_be_read(source, tmp_path):
    first = run(f"--source={source}", f"--data_dir={tmp_path}")
    assert first.returncode == 0, first.stderr
    assert "train2017: 3 images, 3 annotations, 0 faults" in first.stdout
    (directory,) = tmp_path.glob("coco/instances/1.0.0")
    assert f"train on it with --config.data.train={directory}:train2017" in first.stdout
    data = PreparedCoco(directory, "val2017", training=True, short_sides=(64,), long_side=96, test_short_side=64)
    assert len(data) == 3 and "no whole image" in data.failure_reason(1) and data.failure_reason(0) == "it decodes now"
    (directory / "annotations_val2017.json").unlink()  # as if the program was stopped before the end
    again = run(f"--source={source}", f"--data_dir={tmp_path}")
    assert again.returncode == 0 and "is already prepared" in again.stdout
    assert (directory / "annotations_val2017.json").exists() and not list(tmp_path.glob(".preparing*"))


def test_a_check_tells_every_fault(source, tmp_path):
    done = run(f"--source={source}", "--check", f"--report={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "unreadable" in done.stdout and "report.csv" in done.stdout
    with (tmp_path / "report.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["kind"] == "unreadable" and row["split"] == "val2017" and row["file"].endswith("val2017/1.jpg")
    assert "unreadable, 1 times" in (tmp_path / "index.html").read_text()


def test_bad_flags_are_told_in_one_line(source, tmp_path):
    for arguments, words in (
        ((f"--source={source}", "--annotations=person_keypoints", "--check", "--report=r"), "person_keypoints_SPLIT"),
        ((f"--source={source}", "--check"), "--report is not given"),
    ):
        done = run(*arguments)
        assert done.returncode == 2 and words in done.stderr and len(done.stderr.strip().splitlines()) == 1
