"""Parses the masks of annotations, rasterises them with pycocotools, and draws them into their boxes.

A mask keeps the form of the file. It is a list of polygons, or an object {"size": [h, w], "counts": ..}. A polygon is a
flat list x, y, x, y, .. of at least three points. The counts are run-lengths: a list of integers, or COCO's compressed
text. Run-lengths go down the columns and begin with the places outside of the mask.
"""

import numpy as np
from jaxtyping import Float, UInt8
from pycocotools import mask as rasters

from nl_jax.data.coco.fields import is_number
from nl_jax.data.coco.problems import Bad, shown

SIDE = 112  # of a bitmap
GRID = 28  # side of the grid to which the network resamples a bitmap
Segmentation = list | dict


def parse(value: object, height: int, width: int) -> tuple[Segmentation, list[Bad]]:
    """Returns the usable mask, and a fault for each of its polygons that cannot be used.

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


def run_lengths(segmentation: Segmentation, height: int, width: int) -> dict:
    """Returns the mask as compressed run-lengths {"size": [h, w], "counts": bytes}, for an image of this size."""
    if isinstance(segmentation, list):
        return rasters.merge(rasters.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return rasters.frPyObjects(segmentation, height, width)
    return {"size": segmentation["size"], "counts": segmentation["counts"].encode()}


def drawn(segmentation: Segmentation, height: int, width: int) -> UInt8[np.ndarray, "h w"]:
    """Returns the mask (h, w) that pycocotools rasterises, 1 inside, for an image of this size."""
    counts = run_lengths(segmentation, height, width)["counts"].decode()
    runs = _decompress(counts, "")  # pycocotools' own function causes a warning of NumPy
    return np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8).reshape(width, height).T


def compressed(mask: np.ndarray) -> dict:
    """Returns a binary mask (h, w) as compressed run-lengths {"size": [h, w], "counts": text}."""
    encoded = rasters.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}


def bitmap(mask: UInt8[np.ndarray, "h w"], box: Float[np.ndarray, "4"]) -> UInt8[np.ndarray, "112 112"]:
    """Returns a bitmap of the box x0 y0 x1 y1, in pixels, from the binary mask of a whole image.

    The mask covers a part of every cell. Take the 4 x 4 cells that make one cell of a 28 x 28 grid: the bitmap sets as
    many of the 16 as the mask covers in sum, and sets the most covered first. So their mean is the covered part to
    1/32, and it is at least one half where the mask covers at least one half.
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
    """Returns the mean of values (size, n) in each of 112 equal parts from `low` to `high`, (112, n).

    It uses running sums. A product with a matrix of weights takes ten times as long, and all cores.
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
    near = min(x.min(), width - x.max()) >= -width and min(y.min(), height - y.max()) >= -height  # or it takes for ever
    if not inside or not near:
        raise Bad("mask", f"a polygon without area in the {width} x {height} image {shown(part)}", valid)
    return part


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
    """Returns the run-lengths of COCO's compressed text.

    A letter holds 5 bits of a number, the lowest bits first. From the fourth run on the number is the difference from
    the run before the last one. pycocotools does not check the text: if it is damaged, it writes outside its memory.
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
