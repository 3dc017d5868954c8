"""Pasting at the centres of pixels against PyTorch's sampling. True masks also come back out of their boxes."""

import numpy as np
import pytest

from nl_jax.data.coco.masks import GRID, bitmap
from nl_jax.evaluation.paste import paste

HEIGHT, WIDTH = 120, 160
BOXES = [
    (10.3, 20.7, 60.2, 80.9),
    (-20, -10, 30, 40),
    (140, 100, 200, 150),
    (50, 50, 50.4, 50.3),
    (0, 0, WIDTH, HEIGHT),
    (300, 300, 310, 320),
    (30.5, 10.5, 31.5, 90.5),
]


@pytest.mark.parametrize("box", BOXES)
def test_without_whole_pixels_a_mask_is_sampled_at_the_centres_of_pixels(box, torch):
    mask = np.random.default_rng(0).random((28, 28)) * 0.5 + np.linspace(0, 0.5, 28)
    x0, y0, x1, y1 = box
    y = ((np.arange(HEIGHT) + 0.5 - y0) / (y1 - y0) * 2 - 1)[:, None]
    x = ((np.arange(WIDTH) + 0.5 - x0) / (x1 - x0) * 2 - 1)[None]
    grid = np.stack(np.broadcast_arrays(x, y), -1)[None]
    sampled = torch.nn.functional.grid_sample(
        torch.from_numpy(mask)[None, None], torch.from_numpy(grid), align_corners=False
    )
    expected = sampled[0, 0].numpy()
    (pasted,) = paste(mask[None], np.array([box], float), (HEIGHT, WIDTH), whole_pixels=False)
    sure = np.abs(expected - 0.5) > 1e-9
    np.testing.assert_array_equal(pasted[sure], (expected >= 0.5)[sure])


@pytest.mark.parametrize("box", [(10, 10, 10, 20), (10, 10, 5, 20), (np.nan, 0, 5, 5), (0, 0, np.inf, 5)])
def test_a_box_without_area_has_an_empty_mask(box):
    assert not paste(np.ones((1, 28, 28)), np.array([box], float), (HEIGHT, WIDTH), whole_pixels=False).any()


@pytest.mark.parametrize("side", [6, 15, 40])
def test_a_true_mask_comes_back_out_of_its_box(side):
    y, x = np.indices((HEIGHT, WIDTH)) + 0.5
    mask = ((np.hypot(y - 60, x - 80) < side / 2) & (y + x > 135)).astype(np.uint8)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
    cells = bitmap(mask, box).reshape(GRID, 4, GRID, 4).mean((1, 3))
    (pasted,) = paste(cells[None], box[None], (HEIGHT, WIDTH), whole_pixels=False)
    assert (pasted & (mask == 1)).sum() / (pasted | (mask == 1)).sum() > 0.97
