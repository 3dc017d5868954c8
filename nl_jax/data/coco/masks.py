"""Masks of annotations: parses polygons and run-lengths, rasterises them with pycocotools, and draws them into boxes.

A mask keeps the form of the annotation file. It is a list of polygons, each a flat list x, y, x, y, .. of at least
three points, or an object {"size": [h, w], "counts": ..} of run-lengths. The counts are a list of integers or COCO's
text. Run-lengths run down the columns, and the first run is outside the mask.
"""

import numpy as np
from jaxtyping import Float, UInt8
from pycocotools import mask as rasters

from nl_jax.data.coco.fields import is_number
from nl_jax.data.coco.problems import Bad, shown

SIDE = 112  # cells of a bitmap's side
GRID = 28  # cells of a side after the network has resampled the bitmap
Segmentation = list | dict


def parse(value: object, height: int, width: int) -> tuple[Segmentation, list[Bad]]:
    """Returns the usable part of a mask, and an error for each polygon that cannot be used.

    Args:
      value: the field `segmentation` of an annotation.
      height: height of the image, in pixels.
      width: width of the image, in pixels.

    Raises:
      Bad: no part of the mask can be used.
    """
    valid = "a list of polygons, or an object with size and counts"
    if isinstance(value, dict):
        return _run_lengths(value, height, width), []
    if not isinstance(value, list) or not value:
        raise Bad("mask", f"segmentation {shown(value)}", valid)
    kept, bad = [], []
    for part in value:
        try:
            kept.append(_polygon(part, height, width))
        except Bad as error:
            bad.append(error)
    if not kept:
        raise bad[0]
    return kept, bad


def extent(segmentation: Segmentation, height: int, width: int) -> tuple[float, float, float, float]:
    """Returns x0, y0, x1, y1 of the smallest box around a mask, in pixels.

    Args:
      segmentation: the mask, as `parse` returns it.
      height: height of the image, in pixels.
      width: width of the image, in pixels.
    """
    if isinstance(segmentation, list):
        x, y = ([value for part in segmentation for value in part[axis::2]] for axis in (0, 1))
        return float(min(x)), float(min(y)), float(max(x)), float(max(y))
    x0, y0, across, down = rasters.toBbox(run_lengths(segmentation, height, width)).tolist()
    return x0, y0, x0 + across, y0 + down


def run_lengths(segmentation: Segmentation, height: int, width: int) -> dict:
    """Returns a mask as compressed run-lengths {"size": [h, w], "counts": bytes}.

    Args:
      segmentation: the mask, as `parse` returns it.
      height: height of the image, in pixels.
      width: width of the image, in pixels.
    """
    if isinstance(segmentation, list):
        return rasters.merge(rasters.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return rasters.frPyObjects(segmentation, height, width)
    return {"size": segmentation["size"], "counts": segmentation["counts"].encode()}


def drawn(segmentation: Segmentation, height: int, width: int) -> UInt8[np.ndarray, "h w"]:
    """Returns a mask rasterised as by pycocotools, with 1 inside.

    Args:
      segmentation: the mask, as `parse` returns it.
      height: h, height of the image, in pixels.
      width: w, width of the image, in pixels.
    """
    counts = run_lengths(segmentation, height, width)["counts"].decode()
    runs = _decompress(counts, "")  # the decoder of pycocotools causes a NumPy warning
    values = (np.arange(len(runs)) % 2).astype(np.uint8)
    return np.repeat(values, runs).reshape(width, height).T


def compressed(mask: np.ndarray) -> dict:
    """Returns a binary mask (h, w) as compressed run-lengths {"size": [h, w], "counts": text}."""
    encoded = rasters.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}


def bitmap(mask: UInt8[np.ndarray, "h w"], box: Float[np.ndarray, "4"]) -> UInt8[np.ndarray, "112 112"]:
    """Draws the mask of a whole image into a 112 x 112 grid over the box x0 y0 x1 y1, in pixels.

    The mask covers a fraction of each cell. 4 x 4 cells form one cell of a 28 x 28 grid. The number of set cells among
    these 16 is the sum of their fractions, rounded, and the cells with the largest fractions are set. The mean of the
    16 cells is therefore the covered fraction, rounded to 1/16. A fraction below one half that rounds to one half
    becomes 7/16. So the mean is at least one half exactly if the mask covers at least half of the cell.
    """
    x0, y0, x1, y1 = box
    top, left, bottom, right = int(y0), int(x0), int(np.ceil(y1)), int(np.ceil(x1))
    of_rows = _covered(mask[top:bottom, left:right].astype(np.float64), y0 - top, y1 - top)
    covered = _covered(of_rows.T, x0 - left, x1 - left).T
    step = SIDE // GRID
    cells = covered.reshape(GRID, step, GRID, step).transpose(0, 2, 1, 3).reshape(GRID * GRID, step * step)
    sums, half = cells.sum(1), step * step // 2
    count = np.floor(sums + 0.5)
    count = np.where(sums < half - 1e-3, np.minimum(count, half - 1), count)
    rank = np.empty_like(cells)
    np.put_along_axis(rank, np.argsort(-cells, 1, kind="stable"), np.arange(step * step, dtype=np.float32)[None], 1)
    chosen = (rank < count[:, None]).astype(np.uint8)
    return np.ascontiguousarray(chosen.reshape(GRID, GRID, step, step).transpose(0, 2, 1, 3).reshape(SIDE, SIDE))


def _covered(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns (112, n), the means of values (size, n) over 112 equal parts from `low` to `high`.

    It uses running sums. Products with weight matrices take ten times as long and use all cores.
    """
    sums = np.zeros((len(values) + 1, values.shape[1]))
    np.cumsum(values, axis=0, out=sums[1:])
    edges = low + (high - low) * np.arange(SIDE + 1) / SIDE
    whole = np.minimum(edges.astype(int), len(values) - 1)
    at_edges = sums[whole] + (edges - whole)[:, None] * values[whole]
    return np.diff(at_edges, axis=0) * (SIDE / (high - low))


def _polygon(part: object, height: int, width: int) -> list:
    valid = "x, y, x, y, .. of at least 3 points that enclose an area inside the image"
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2 or not all(map(is_number, part)):
        length = f" of {len(part)} values" if isinstance(part, list) else ""
        raise Bad("mask", f"a polygon{length} {shown(part)}", valid)
    x, y = np.array(part, np.float64).reshape(-1, 2).T
    inside = min(x.max(), width) > max(x.min(), 0) and min(y.max(), height) > max(y.min(), 0)
    # Rasterising points far outside takes very long.
    near = min(x.min(), width - x.max()) >= -width and min(y.min(), height - y.max()) >= -height
    if not inside or not near or _on_a_line(x, y):
        raise Bad("mask", f"a polygon without area in the {width} x {height} image {shown(part)}", valid)
    return part


def _on_a_line(x: np.ndarray, y: np.ndarray) -> bool:
    """Returns whether all points lie on one line."""
    x, y = x - x[0], y - y[0]
    farthest = np.argmax(np.abs(x) + np.abs(y))
    longest = x[farthest] ** 2 + y[farthest] ** 2
    return bool(np.abs(x * y[farthest] - y * x[farthest]).max() <= 1e-9 * longest)


def _run_lengths(value: dict, height: int, width: int) -> dict:
    valid = f"run-lengths with size [{height}, {width}] and counts that add up to {height * width}"
    if value.get("size") != [height, width]:
        raise Bad("mask", f"run-lengths of size {shown(value.get('size'))}", valid)
    counts = value.get("counts")
    if isinstance(counts, str):
        runs = _decompress(counts, valid)
    elif isinstance(counts, list) and all(type(run) is int and abs(run) < 2**31 for run in counts):
        runs = np.array(counts, np.int64)
    else:
        raise Bad("mask", f"counts {shown(counts)}", valid)
    if (runs < 0).any():
        raise Bad("mask", "a negative run-length", valid)
    if runs.sum() != height * width:
        raise Bad("mask", f"run-lengths that add up to {runs.sum()}", valid)
    if not runs[1::2].any():
        raise Bad("mask", "run-lengths without area", valid)
    return {"size": [height, width], "counts": counts}


def _decompress(counts: str, valid: str) -> np.ndarray:
    """Decodes COCO's text of run-lengths.

    Each letter holds 5 bits of a number, the lowest bits first. From the fourth number on, the number is the run-length
    minus the run-length two places before. pycocotools does not check the text, and writes outside its memory if the
    text is damaged.
    """
    letters = np.frombuffer(counts.encode("utf-8"), np.uint8).astype(np.int64) - 48
    if not len(letters) or letters.min() < 0 or letters.max() > 63 or letters[-1] & 32:
        raise Bad("mask", f"counts {shown(counts)}", valid)
    starts = np.append(0, np.flatnonzero((letters & 32) == 0) + 1)
    lengths = np.diff(starts)
    if lengths.max() > 12:  # 60 bits
        raise Bad("mask", f"counts {shown(counts)}", valid)
    places = np.arange(len(letters)) - np.repeat(starts[:-1], lengths)
    runs = np.add.reduceat((letters & 31) << 5 * places, starts[:-1])
    runs -= np.where(letters[starts[1:] - 1] & 16, np.int64(1) << 5 * lengths, 0)  # negative
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs
