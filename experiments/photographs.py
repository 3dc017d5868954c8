"""Writes a dataset for detection from real pictures: tree crowns from the air, or cell nuclei under a microscope.

pip download --no-deps deepforest==2.1.0
python -m experiments.photographs crowns deepforest-2.1.0-py3-none-any.whl
python -m experiments.train --config=configs/crowns.py --workdir=runs/crowns

pip download --no-deps stardist==0.9.2
python -m experiments.photographs nuclei stardist-0.9.2-*.whl
python -m experiments.train --config=configs/nuclei.py --workdir=runs/nuclei

Two Python packages ship the pictures. This program reads them from the package's wheel, which need not be installed.

deepforest ships two photographs of Yellowstone with boxes of tree crowns (National Ecological Observatory Network,
10 cm a pixel). stardist ships one fluorescence picture with masks of cell nuclei (Data Science Bowl 2018).

The program cuts a picture into tiles. About three quarters of the rows of tiles are for training, and the lowest
rows are for testing. The second photograph of crowns is the split `elsewhere`, for a test a kilometre or more away:

python -m experiments.evaluate --workdir=runs/crowns --data=data/crowns/elsewhere:data/crowns/elsewhere.json
"""

import argparse
import dataclasses
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import PIL.Image
from jaxtyping import Bool, Float, UInt8

from experiments import command_line
from nl_jax.data.coco.masks import compressed
from nl_jax.errors import InputError
from nl_jax.training.workdir import make_directory, write_json

CROWNS = ("2019_YELL_2_528000_4978000_image_crop2", "2019_YELL_2_541000_4977000_image_crop")  # the larger one first
KEPT = 0.5  # an object with a smaller part inside the tile becomes a crowd region, which does not count


@dataclasses.dataclass(frozen=True)
class Photograph:
    """A picture and its objects.

    Attributes:
      pixels: the picture.
      boxes: x0, y0, x1, y1 of every object in pixels, if `masks` is None.
      masks: the pixels of every object, or None if only boxes are known.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    boxes: Float[np.ndarray, "n 4"] | None = None
    masks: Bool[np.ndarray, "h w n"] | None = None


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.photographs", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("dataset", choices=SOURCES, help="the objects of the dataset")
    parser.add_argument("wheel", type=command_line.local_path("wheel"), help="the file of the package, see above")
    parser.add_argument(
        "--out", type=command_line.local_path("--out"), help="folder for the dataset; by default data/DATASET"
    )
    arguments = parser.parse_args(argv)
    out = arguments.out or Path("data") / arguments.dataset
    try:
        counts = write(arguments.dataset, arguments.wheel, out)
    except InputError as error:
        command_line.fail(error, 2)
    side = SOURCES[arguments.dataset][2]
    for split, (objects, pictures) in counts.items():
        print(f"{split}: {objects} {arguments.dataset} in {pictures} tiles of {side} x {side} pixels")


def write(dataset: str, wheel: Path, out: Path) -> dict[str, tuple[int, int]]:
    """Writes tiles and their annotations in COCO's format. Returns the number of objects and tiles of each split.

    Args:
      dataset: one of SOURCES.
      wheel: the file of the package that ships the pictures.
      out: the folder to write.

    Raises:
      InputError: the file is not the wheel of this package.
    """
    read, package, side, category = SOURCES[dataset]
    try:
        with zipfile.ZipFile(wheel) as archive:
            photograph, *others = read(archive)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{wheel}: {error}; give the wheel of {package}") from error
    rows = photograph.pixels.shape[0] // side
    border = rows * 3 // 4
    splits = {"train": (photograph, range(border)), "test": (photograph, range(border, rows))}
    for other in others:
        splits["elsewhere"] = other, range(other.pixels.shape[0] // side)
    counts = {}
    for split, (picture, chosen) in splits.items():
        make_directory(out / split)
        images, annotations = [], []
        for number, (tile, found) in enumerate(tiles(picture, side, chosen), start=1):
            file = f"{number:03d}.png"
            PIL.Image.fromarray(tile).save(out / split / file)
            images.append({"id": number, "file_name": file, "width": side, "height": side})
            for one in found:
                annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": 1} | one)
        categories = [{"id": 1, "name": category}]
        write_json(out / f"{split}.json", {"images": images, "annotations": annotations, "categories": categories})
        counts[split] = sum(not one["iscrowd"] for one in annotations), len(images)
    return counts


def tiles(
    photograph: Photograph, side: int, rows: range
) -> Iterator[tuple[UInt8[np.ndarray, "s s 3"], list[dict[str, Any]]]]:
    """Yields the whole tiles in some rows of tiles, with COCO's fields of the parts of objects in the tile."""
    pixels, boxes, masks = photograph.pixels, photograph.boxes, photograph.masks
    areas = _areas(boxes) if masks is None else masks.sum((0, 1))
    for top in side * np.array(rows):
        for left in range(0, pixels.shape[1] - side + 1, side):
            tile = np.s_[top : top + side, left : left + side]
            if masks is None:
                cut = np.clip(boxes - np.array([left, top, left, top]), 0, side)
                shown = _areas(cut)
                found = [_fields(cut[at], shown[at], areas[at]) for at in np.flatnonzero(shown)]
            else:
                found = []
                for at in np.flatnonzero(masks[tile].any((0, 1))):
                    mask = masks[*tile, at]
                    fields = _fields(_bounds(mask), mask.sum(), areas[at])
                    found.append(fields | {"segmentation": compressed(mask)})
            yield pixels[tile], found


def _areas(boxes: Float[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n"]:
    return (boxes[..., 2:] - boxes[..., :2]).prod(axis=-1)


def _bounds(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "4"]:
    """Returns the box x0, y0, x1, y1 around the pixels of a mask."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


def _fields(box: Float[np.ndarray, "4"], area: float, whole: float) -> dict[str, Any]:
    """Returns COCO's fields of the part of an object with this area. `whole` is the area of the object."""
    x0, y0, x1, y1 = box.tolist()
    return {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": float(area), "iscrowd": int(area < KEPT * whole)}


def _crowns(archive: zipfile.ZipFile) -> list[Photograph]:
    photographs = []
    for name in CROWNS:
        pixels = np.asarray(_picture(archive, f"deepforest/data/{name}.png").convert("RGB"))
        tree = ElementTree.fromstring(archive.read(f"deepforest/data/{name}.xml"))
        sides = ("xmin", "ymin", "xmax", "ymax")
        boxes = [[float(box.findtext(side)) for side in sides] for box in tree.iter("bndbox")]
        photographs.append(Photograph(pixels, np.array(boxes)))
    return photographs


def _nuclei(archive: zipfile.ZipFile) -> list[Photograph]:
    raw, numbers = (np.asarray(_picture(archive, f"stardist/data/images/{name}2d.tif")) for name in ("img", "mask"))
    low, high = np.percentile(raw, (1, 99.8))  # a few bright specks would leave the nuclei almost black
    grey = (255 * np.clip((raw - low) / (high - low), 0, 1)).astype(np.uint8)
    masks = numbers[..., None] == np.unique(numbers[numbers > 0])
    return [Photograph(np.repeat(grey[..., None], 3, axis=-1), masks=masks)]


def _picture(archive: zipfile.ZipFile, name: str) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(archive.read(name)))


# reader, package, side of a tile in pixels, category
SOURCES = {"crowns": (_crowns, "deepforest 2.1.0", 256, "crown"), "nuclei": (_nuclei, "stardist 0.9.2", 128, "nucleus")}

if __name__ == "__main__":
    main()
