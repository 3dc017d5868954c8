"""Writes a dataset for detection: tree crowns in aerial photographs.

pip download --no-deps deepforest==2.1.0
python -m experiments.crowns deepforest-2.1.0-py3-none-any.whl
python -m experiments.train --config=configs/crowns.py --workdir=runs/crowns

The Python package deepforest ships two annotated photographs of Yellowstone (National Ecological Observatory Network,
10 cm a pixel). This program reads them from the wheel of the package, which need not be installed. Tiles of the larger
photograph are the training split. Tiles of the other photograph, at least a kilometre away, are the test split.
"""

import argparse
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import PIL.Image
from jaxtyping import Float, UInt8

from experiments import command_line
from nl_jax.errors import InputError
from nl_jax.training.workdir import make_directory, write_json

PHOTOGRAPHS = {"train": "2019_YELL_2_528000_4978000_image_crop2", "test": "2019_YELL_2_541000_4977000_image_crop"}
SIDE = 256  # pixels of a tile
KEPT = 0.5  # a crown with a smaller part inside the tile becomes a crowd region, which does not count


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.crowns", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "wheel", type=command_line.local_path("wheel"), help="the file deepforest-2.1.0-py3-none-any.whl"
    )
    parser.add_argument(
        "--out",
        type=command_line.local_path("--out"),
        default=Path("data/crowns"),
        help="folder for the dataset; by default %(default)s",
    )
    arguments = parser.parse_args(argv)
    try:
        for split, counts in write(arguments.wheel, arguments.out).items():
            print(f"{split}: {counts[0]} crowns in {counts[1]} tiles of {SIDE} x {SIDE} pixels")
    except InputError as error:
        command_line.fail(error, 2)


def write(wheel: Path, out: Path) -> dict[str, tuple[int, int]]:
    """Writes tiles and their annotations in COCO's format. Returns (crowns, tiles) for each split.

    Raises:
      InputError: the file is not the wheel of deepforest.
    """
    counts = {}
    for split, name in PHOTOGRAPHS.items():
        image, boxes = _read(wheel, name)
        make_directory(out / split)
        images, annotations = [], []
        for number, (tile, found) in enumerate(tiles(image, boxes, SIDE), start=1):
            file = f"{number:03d}.png"
            PIL.Image.fromarray(tile).save(out / split / file)
            images.append({"id": number, "file_name": file, "width": SIDE, "height": SIDE})
            for (x0, y0, x1, y1), whole in found:
                box = [x0, y0, x1 - x0, y1 - y0]
                one = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "bbox": box}
                annotations.append(one | {"area": box[2] * box[3], "iscrowd": int(not whole)})
        categories = [{"id": 1, "name": "crown"}]
        write_json(out / f"{split}.json", {"images": images, "annotations": annotations, "categories": categories})
        counts[split] = sum(not one["iscrowd"] for one in annotations), len(images)
    return counts


def tiles(
    image: UInt8[np.ndarray, "h w 3"], boxes: Float[np.ndarray, "n 4"], side: int
) -> Iterator[tuple[UInt8[np.ndarray, "s s 3"], list[tuple[list[float], bool]]]]:
    """Yields the whole tiles of an image, row by row, with their boxes: (cut at the border, whether KEPT is inside)."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for top in range(0, image.shape[0] - side + 1, side):
        for left in range(0, image.shape[1] - side + 1, side):
            cut = np.clip(boxes - np.array([left, top, left, top]), 0, side)
            part = (cut[:, 2:] - cut[:, :2]).prod(axis=1) / area
            found = [(cut[at].tolist(), bool(part[at] >= KEPT)) for at in np.flatnonzero(part)]
            yield image[top : top + side, left : left + side], found


def _read(wheel: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns a photograph, and the boxes (n,4) of its crowns: x0, y0, x1, y1 in pixels."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            picture = PIL.Image.open(io.BytesIO(archive.read(f"deepforest/data/{name}.png")))
            tree = ElementTree.fromstring(archive.read(f"deepforest/data/{name}.xml"))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{wheel}: {error}; give the wheel of deepforest 2.1.0") from error
    names = ("xmin", "ymin", "xmax", "ymax")
    boxes = [[float(box.findtext(side)) for side in names] for box in tree.iter("bndbox")]
    return np.asarray(picture.convert("RGB")), np.array(boxes)


if __name__ == "__main__":
    main()
