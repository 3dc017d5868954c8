import numpy as np
import pytest
from pycocotools import mask as rasters

from nl_jax.data.coco.masks import GRID, SIDE, bitmap, compressed, drawn, parse, run_lengths
from nl_jax.data.coco.problems import Bad

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools on a new NumPy

HEIGHT, WIDTH = 60, 96


def covered(mask, box, side):
    """Returns the fraction of each cell of a side x side grid over the box that the mask covers, by plain loops."""
    x0, y0, x1, y1 = box
    result = np.zeros((side, side))
    for i in range(side):
        top, bottom = y0 + (y1 - y0) * i / side, y0 + (y1 - y0) * (i + 1) / side
        for j in range(side):
            left, right = x0 + (x1 - x0) * j / side, x0 + (x1 - x0) * (j + 1) / side
            for y in range(int(top), int(np.ceil(bottom))):
                for x in range(int(left), int(np.ceil(right))):
                    high = min(bottom, y + 1) - max(top, y)
                    wide = min(right, x + 1) - max(left, x)
                    result[i, j] += mask[y, x] * max(high, 0) * max(wide, 0)
            result[i, j] /= (bottom - top) * (right - left)
    return result


def polygon(rng):
    """Returns a star of 12 points."""
    angle, radius = np.arange(12) * np.pi / 6, rng.uniform(6, 28, 12)
    x, y = 48 + 1.6 * radius * np.cos(angle), 30 + radius * np.sin(angle)
    return np.stack([x, y], 1).ravel().tolist(), [x.min(), y.min(), x.max(), y.max()]


@pytest.mark.parametrize("seed", range(4))
def test_a_bitmap_covers_the_box_as_the_mask_of_pycocotools_does(seed):
    points, box = polygon(np.random.default_rng(seed))
    box = np.clip(box, 0, (WIDTH, HEIGHT, WIDTH, HEIGHT))
    mask = rasters.decode(run_lengths([points], HEIGHT, WIDTH))
    found = bitmap(mask, box)
    assert found.shape == (SIDE, SIDE) and found.dtype == np.uint8 and set(np.unique(found)) == {0, 1}
    mean, true = found.reshape(GRID, 4, GRID, 4).mean((1, 3)), covered(mask, box, GRID)
    assert np.abs(mean - true).max() < 1 / 16
    clear = np.abs(true - 0.5) > 1e-4
    np.testing.assert_array_equal((mean >= 0.5)[clear], (true > 0.5)[clear])
    assert np.minimum(mean, true).sum() / np.maximum(mean, true).sum() > 0.98


@pytest.mark.parametrize(
    "box", [(10, 10, 40, 40), (10.5, 9.25, 40.75, 41), (0, 0, WIDTH, HEIGHT), (20.2, 20.2, 20.9, 21.7)]
)
def test_a_bitmap_of_a_full_mask_is_full_and_of_an_empty_one_empty(box):
    full = np.ones((HEIGHT, WIDTH), np.uint8)
    assert bitmap(full, np.array(box, float)).all()
    assert not bitmap(0 * full, np.array(box, float)).any()


def test_a_bitmap_is_mirrored_with_its_mask():
    points, box = polygon(np.random.default_rng(7))
    mask = rasters.decode(run_lengths([points], HEIGHT, WIDTH))
    box = np.array([20.0, 10, 60, 50])
    other = np.array([WIDTH - 60.0, 10, WIDTH - 20, 50])
    a, b = bitmap(mask, box)[:, ::-1], bitmap(np.ascontiguousarray(mask[:, ::-1]), other)
    sums = [x.reshape(GRID, 4, GRID, 4).sum((1, 3)) for x in (a, b)]  # the chosen ones of equal cells may differ
    np.testing.assert_array_equal(*sums)


def test_every_form_of_a_mask_gives_the_same_mask():
    points, _ = polygon(np.random.default_rng(3))
    mask = rasters.decode(run_lengths([points], HEIGHT, WIDTH))
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]]))).tolist()
    runs = np.diff([0, *edges]).tolist()
    for form in (compressed(mask), {"size": [HEIGHT, WIDTH], "counts": runs}):
        kept, bad = parse(form, HEIGHT, WIDTH)
        assert bad == []
        np.testing.assert_array_equal(rasters.decode(run_lengths(kept, HEIGHT, WIDTH)), mask)
        np.testing.assert_array_equal(drawn(kept, HEIGHT, WIDTH), mask)


def test_parts_of_a_mask_are_united():
    parts = [[1.0, 1, 20, 1, 20, 20, 1, 20], [10.0, 10, 40, 10, 40, 40, 10, 40]]
    kept, bad = parse(parts, HEIGHT, WIDTH)
    mask = rasters.decode(run_lengths(kept, HEIGHT, WIDTH))
    one, two = (rasters.decode(run_lengths([part], HEIGHT, WIDTH)) for part in parts)
    assert bad == [] and (one & two).any()
    np.testing.assert_array_equal(mask, one | two)


@pytest.mark.parametrize("seed", range(3))
def test_compressed_run_lengths_are_understood_as_pycocotools_does(seed):
    rng = np.random.default_rng(seed)
    mask = (rng.random((HEIGHT, WIDTH)) < (0.5, 0.02, 0.98)[seed]).astype(np.uint8)
    text = compressed(mask)["counts"]
    assert parse({"size": [HEIGHT, WIDTH], "counts": text}, HEIGHT, WIDTH)[1] == []
    for cut in range(1, 40):  # a cut or changed text raises an error, or still has the right sum
        for damaged in (text[:-cut], text[:cut] + chr(48 + int(rng.integers(64))) + text[cut + 1 :]):
            try:
                kept, _ = parse({"size": [HEIGHT, WIDTH], "counts": damaged}, HEIGHT, WIDTH)
            except Bad as error:
                assert error.kind == "mask"
            else:
                assert drawn(kept, HEIGHT, WIDTH).shape == mask.shape
