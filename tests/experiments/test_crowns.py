"""A dataset of detection from photographs of tree crowns."""

import io
import zipfile

import numpy as np
import PIL.Image
import pytest

from configs import crowns as config_of
from experiments import crowns
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
        for name in crowns.PHOTOGRAPHS.values():
            archive.writestr(f"deepforest/data/{name}.png", file.getvalue())
            archive.writestr(f"deepforest/data/{name}.xml", f"<annotation>{text}</annotation>")
    return path, image


def test_tiles_have_the_crowns_that_lie_in_them(wheel, tmp_path):
    path, image = wheel
    out = tmp_path / "crowns"
    assert crowns.write(path, out) == {"train": (2, 6), "test": (2, 6)}
    config = config_of.get_config().unlock()
    config.data.test = f"{out}/test:{out}/test.json"
    dataset = task_of(config).open_split("test")
    assert not dataset.problems and len(dataset) == 6 and dataset.classes == ("crown",)
    first, second, *others = (dataset.annotated(index) for index in range(6))
    assert [(one.bbox, one.crowd) for one in first.instances] == [((10, 20, 30, 40), False), ((246, 100, 10, 10), True)]
    assert [(one.bbox, one.crowd) for one in second.instances] == [((0, 100, 20, 10), False)]
    assert not any(other.instances for other in others)
    np.testing.assert_array_equal(dataset.pixels(4), image[256:512, 256:512])


def test_a_file_that_is_no_such_wheel_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.whl", "w"):
        pass
    for name in ("other.whl", "missing.whl"):
        with pytest.raises(InputError, match=rf"{name}: .*; give the wheel of deepforest 2\.1\.0"):
            crowns.write(tmp_path / name, tmp_path / "out")
