"""Datasets of detection from real pictures, of tree crowns and of nuclei."""

import io
import re
import zipfile

import numpy as np
import PIL.Image
import pytest

from configs import crowns, nuclei
from experiments import photographs
from nl_jax.data.coco.masks import drawn
from nl_jax.errors import InputError
from nl_jax.tasks import task_of


@pytest.fixture
def wheel(tmp_path):
    """Returns a wheel like deepforest's, with photographs of 2 x 3 tiles and a part of a tile, and the photograph."""
    path = tmp_path / "deepforest.whl"
    image = np.random.default_rng(0).integers(256, size=(520, 780, 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "PNG")
    # The first box is in the first tile. Two thirds of the second are in the second tile. No whole tile has the third.
    boxes = [(10, 20, 40, 60), (246, 100, 276, 110), (770, 5, 779, 9)]
    sides = ("xmin", "ymin", "xmax", "ymax")
    lines = ["".join(f"<{side}>{value}</{side}>" for side, value in zip(sides, box, strict=True)) for box in boxes]
    text = "".join(f"<object><name>Tree</name><bndbox>{line}</bndbox></object>" for line in lines)
    with zipfile.ZipFile(path, "w") as archive:
        for name in photographs.CROWNS:
            archive.writestr(f"deepforest/data/{name}.png", file.getvalue())
            archive.writestr(f"deepforest/data/{name}.xml", f"<annotation>{text}</annotation>")
    return path, image


def test_tiles_have_the_crowns_that_lie_in_them(wheel, tmp_path):
    path, image = wheel
    out = tmp_path / "crowns"
    assert photographs.write("crowns", path, out) == {"train": (2, 3), "test": (0, 3), "elsewhere": (2, 6)}
    config = crowns.get_config().unlock()
    config.data.test = f"{out}/elsewhere:{out}/elsewhere.json"
    dataset = task_of(config).open_split("test")
    assert not dataset.problems and len(dataset) == 6 and dataset.classes == ("crown",)
    first, second, *others = (dataset.annotated(index) for index in range(6))
    assert [(one.bbox, one.crowd) for one in first.instances] == [((10, 20, 30, 40), False), ((246, 100, 10, 10), True)]
    assert [(one.bbox, one.crowd) for one in second.instances] == [((0, 100, 20, 10), False)]
    assert not any(other.instances for other in others)
    np.testing.assert_array_equal(dataset.pixels(4), image[256:512, 256:512])


def test_tiles_have_the_nuclei_that_lie_in_them(tmp_path):
    """Three nuclei: one in the first tile, one across the border of training and testing, one across two test tiles."""
    raw, numbers = np.full((512, 256), 10, np.uint16), np.zeros((512, 256), np.uint16)
    places = {7: np.s_[20:40, 30:60], 9: np.s_[380:400, 10:20], 4: np.s_[500:510, 120:134]}
    for number, place in places.items():
        raw[place], numbers[place] = 200, number
    with zipfile.ZipFile(tmp_path / "stardist.whl", "w") as archive:
        for name, array in (("img", raw), ("mask", numbers)):
            file = io.BytesIO()
            PIL.Image.fromarray(array).save(file, "TIFF")
            archive.writestr(f"stardist/data/images/{name}2d.tif", file.getvalue())
    out = tmp_path / "nuclei"
    assert photographs.write("nuclei", tmp_path / "stardist.whl", out) == {"train": (1, 6), "test": (2, 2)}

    found = {}
    for split in ("train", "test"):
        config = nuclei.get_config().unlock()
        config.data.test = f"{out}/{split}:{out}/{split}.json"
        dataset = task_of(config).open_split("test")
        assert not dataset.problems and dataset.classes == ("nucleus",)
        for index in range(len(dataset)):
            image = dataset.annotated(index)
            for one in image.instances:
                mask = drawn(one.segmentation, 128, 128).astype(bool)
                found[split, index, one.bbox, one.crowd] = int(mask.sum())
                assert (dataset.pixels(index)[mask] == 255).all()
    assert found == {
        ("train", 0, (30, 20, 30, 20), False): 600,
        ("train", 4, (10, 124, 10, 4), True): 40,  # 4 of its 20 rows
        ("test", 0, (10, 0, 10, 16), False): 160,
        ("test", 0, (120, 116, 8, 10), False): 80,  # 8 of its 14 columns
        ("test", 1, (0, 116, 6, 10), True): 60,
    }


@pytest.mark.parametrize("dataset, package", [("crowns", "deepforest 2.1.0"), ("nuclei", "stardist 0.9.2")])
def test_a_file_that_is_no_such_wheel_is_named(tmp_path, dataset, package):
    with zipfile.ZipFile(tmp_path / "other.whl", "w"):
        pass
    for name in ("other.whl", "missing.whl"):
        with pytest.raises(InputError, match=rf"{name}: .*; give the wheel of {re.escape(package)}"):
            photographs.write(dataset, tmp_path / name, tmp_path / "out")
