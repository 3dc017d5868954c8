"""Pasting against a loop over pixels, and against torchvision where it is installed."""

import numpy as np
import pytest

from nl_jax.errors import InputError
from nl_jax.evaluation.paste import paste

BOXES = np.asarray(
    [
        [10.3, 5.6, 40.9, 30.1],
        [-20, -10, 15, 20],
        [50, 20, 90, 60],
        [30, 30, 30.5, 30.5],
        [0, 0, 64, 48],
        [200, 200, 220, 230],
    ],
    np.float32,
)


def some(size=28):
    return np.random.default_rng(0).uniform(size=(len(BOXES), size, size)).astype(np.float32)


def naive(mask, box, shape):
    """Returns the value at every pixel, from Detectron's formulas."""
    cells = len(mask) + 2
    mask, image = np.pad(mask, 1), np.zeros(shape)
    centre, half = (box[2:] + box[:2]) / 2, (box[2:] - box[:2]) / 2 * cells / (cells - 2)
    x0, y0, x1, y1 = (int(value) for value in (*(centre - half), *(centre + half)))
    for y, x in np.ndindex(shape):
        if not (y0 <= y <= y1 and x0 <= x <= x1):
            continue
        at = [
            np.clip((p - start + 0.5) * cells / (end - start + 1) - 0.5, 0, cells - 1)
            for p, start, end in ((y, y0, y1), (x, x0, x1))
        ]
        (i, j), (u, v) = np.floor(at).astype(int), at - np.floor(at)
        k, m = min(i + 1, cells - 1), min(j + 1, cells - 1)
        image[y, x] = (1 - u) * ((1 - v) * mask[i, j] + v * mask[i, m]) + u * ((1 - v) * mask[k, j] + v * mask[k, m])
    return image


def test_every_pixel():
    masks, shape = some(), (48, 64)
    found = paste(masks, BOXES, shape)
    assert found.shape == (6, 48, 64) and found.dtype == bool and found[:5].any((1, 2)).all() and not found[5].any()
    for image, mask, box in zip(found, masks, BOXES, strict=True):
        expected = naive(mask, box, shape)
        unsure = np.abs(expected - 0.5) < 1e-4
        assert ((image == (expected > 0.5)) | unsure).all() and unsure.mean() < 0.01


def test_equals_torchvision():
    torch = pytest.importorskip("torch")
    roi_heads = pytest.importorskip("torchvision.models.detection.roi_heads")
    masks = some()
    expected = roi_heads.paste_masks_in_image(torch.tensor(masks)[:, None], torch.tensor(BOXES), (48, 64))[:, 0].numpy()
    found = paste(masks, BOXES, (48, 64))
    assert ((found == (expected > 0.5)) | (np.abs(expected - 0.5) < 1e-4)).all()


def test_nothing_and_errors():
    assert paste(some()[:0], BOXES[:0], (4, 5)).shape == (0, 4, 5)
    with pytest.raises(InputError, match=r"masks \(6, 28, 28\) and boxes \(5, 4\) must be"):
        paste(some(), BOXES[:5], (48, 64))
