"""Masks of a network, drawn within their boxes, pasted into whole images."""

import numpy as np
from jaxtyping import Float, UInt8


def paste(
    mask: Float[np.ndarray, "m m2"], box: Float[np.ndarray, "4"], height: int, width: int, threshold: float = 0.5
):
    """The mask as a binary one of a whole image: uint8 (height, width), 1 where it is at least `threshold`.

    Pixel (y, x) of the image has its centre at (y + 1/2, x + 1/2). It takes the value of the mask there, bilinear
    between the centres of the mask's cells and falling to 0 outside of them. This is detectron2's convention.

    Args:
        mask: probabilities, on a grid over the box.
        box: x0 y0 x1 y1 in pixels of the image; one without area, or not finite, gives an empty mask.
        height: of the image.
        width: of the image.
        threshold: of a pixel that belongs to the mask.
    """
    x0, y0, x1, y1 = (float(value) for value in box)
    whole: UInt8[np.ndarray, "h w"] = np.zeros((height, width), np.uint8)
    if not (x1 > x0 and y1 > y0) or not np.isfinite((x0, y0, x1, y1)).all():
        return whole
    rows, first_row = _weights(y0, y1, height, mask.shape[0])
    columns, first_column = _weights(x0, x1, width, mask.shape[1])
    part = rows @ mask.astype(np.float64) @ columns.T
    window = whole[first_row : first_row + len(rows), first_column : first_column + len(columns)]
    np.greater_equal(part, threshold, out=window, casting="unsafe")
    return whole


def _weights(low: float, high: float, size: int, cells: int) -> tuple[np.ndarray, int]:
    """The (pixels, cells) weights of cells from `low` to `high` in the pixels that they reach, and the first pixel."""
    reach = (high - low) / cells / 2  # of the border cells beyond the box
    first = int(np.clip(np.floor(low - reach), 0, size))
    last = int(np.clip(np.ceil(high + reach), first, size))
    places = (np.arange(first, last) + 0.5 - low) / (high - low) * cells - 0.5
    return np.maximum(1 - np.abs(places[:, None] - np.arange(cells)), 0), first
