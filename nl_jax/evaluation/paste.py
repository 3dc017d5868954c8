"""Conversion of the masks of boxes to masks of the whole image."""

import numpy as np

from nl_jax.errors import InputError


def paste(
    masks: np.ndarray,
    boxes: np.ndarray,
    shape: tuple[int, int],
    threshold: float = 0.5,
    *,
    whole_pixels: bool = True,
) -> np.ndarray:
    """Returns the masks of boxes as masks (n,h,w) of the whole image.

    The default is the rule of Detectron and torchvision. The mask gets a border of one cell of 0, and the box grows by
    as much and is cut to whole pixels. Values are interpolated between the centres of cells. A pixel belongs to the
    mask if its value is above the threshold. The border lets a mask end inside its box.

    Without `whole_pixels` the box is not cut, as in detectron2. A pixel takes the value at its centre. Values are
    interpolated between the centres of cells and fall to 0 outside of them. A pixel belongs to the mask if its value is
    at least the threshold. A small mask then keeps its shape. Whole pixels move its border by up to one pixel.

    Args:
      masks: (n,s,s), probabilities in s x s cells of every box.
      boxes: (n,4), x0 y0 x1 y1 in pixels.
      shape: height and width of the image in pixels.
      threshold: probability at the border of a mask.
      whole_pixels: whether boxes are cut to whole pixels.

    Raises:
      InputError: for arrays whose shapes do not fit together.
    """
    if masks.ndim != 3 or masks.shape[1] != masks.shape[2] or boxes.shape != (len(masks), 4):
        raise InputError(f"masks {masks.shape} and boxes {boxes.shape} must be (n,s,s) and (n,4)")
    n, size, _ = masks.shape
    height, width = shape
    result = np.zeros((n, height, width), bool)
    if not whole_pixels:
        for mask, (x0, y0, x1, y1), image in zip(masks, boxes.tolist(), result, strict=True):
            if x1 > x0 and y1 > y0 and np.isfinite((x0, y0, x1, y1)).all():
                rows, top = _at_centres(y0, y1, height, size)
                columns, left = _at_centres(x0, x1, width, size)
                part = rows @ mask.astype(np.float64) @ columns.T
                image[top : top + len(rows), left : left + len(columns)] = part >= threshold
        return result
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1))).astype(np.float32)
    centre, half = (boxes[:, 2:] + boxes[:, :2]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * ((size + 2) / size)
    corners = np.concatenate([centre - half, centre + half], axis=1).astype(np.int64).tolist()  # rounds towards 0
    for mask, (x0, y0, x1, y1), image in zip(padded, corners, result, strict=True):
        (rows, top, bottom), (columns, left, right) = (
            _stretch(size + 2, start, end, limit) for start, end, limit in ((y0, y1, height), (x0, x1, width))
        )
        if bottom > top and right > left:
            image[top:bottom, left:right] = rows @ mask @ columns.T > threshold
    return result


def _stretch(cells: int, start: int, end: int, limit: int) -> tuple[np.ndarray, int, int]:
    """Returns the weights (p,cells) of cells in the p pixels from start to end, the first pixel and the end + 1."""
    pixels = max(end - start + 1, 1)
    first, last = max(start, 0), min(end + 1, limit)
    at = np.clip((np.arange(first, last) - start + 0.5) * (cells / pixels) - 0.5, 0, cells - 1).astype(np.float32)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(cells, dtype=np.float32))), first, last


def _at_centres(low: float, high: float, limit: int, cells: int) -> tuple[np.ndarray, int]:
    """Returns the weights (p,cells) of cells from `low` to `high` at the centres of pixels, and the first pixel."""
    reach = (high - low) / cells / 2  # values reach half a cell beyond the box
    first = int(np.clip(np.floor(low - reach), 0, limit))
    last = int(np.clip(np.ceil(high + reach), first, limit))
    at = (np.arange(first, last) + 0.5 - low) / (high - low) * cells - 0.5
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(cells))), first
