"""Reads annotation files in COCO's format and reports every fault in them.

The format is a JSON object with the lists `images` (id, file_name, width, height), `annotations` (id, image_id,
category_id, bbox, area, iscrowd, segmentation, keypoints) and `categories` (id, name, keypoints, skeleton; see
`nl_jax.data.coco.keypoints`). Source: https://cocodataset.org/#format-data
"""

import json
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from nl_jax.data.coco import fields
from nl_jax.data.coco import keypoints as of_keypoints
from nl_jax.data.coco.keypoints import Category, Keypoints
from nl_jax.data.coco.masks import Segmentation, extent, parse
from nl_jax.data.coco.problems import Bad, Problem, counted, shown
from nl_jax.data.media.container import MAX_PIXELS_OF_STILL
from nl_jax.errors import InputError

LISTS = ("images", "annotations", "categories")


@dataclass(frozen=True, eq=False)
class Instance:
    """One annotated object, or a crowd of objects.

    Attributes:
      id: id of the annotation in the file.
      bbox: x, y, width and height from the file, in pixels of the original image.
      label: index of the category in the category names.
      crowd: whether the annotation stands for several objects that are not separated.
      area: area of the mask from the file, in pixels.
      segmentation: the mask in a form of `nl_jax.data.coco.masks`; None if masks are not read.
      keypoints: (k, 3) x, y and visibility from the file, for the k keypoints of all categories. Rows of keypoints that
        the instance's category lacks are 0. None if keypoints are not read.
    """

    id: int
    bbox: tuple[float, float, float, float]
    label: int
    crowd: bool
    area: float
    segmentation: Segmentation | None = None
    keypoints: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Image:
    """One image of the annotation file.

    Attributes:
      id: id of the image in the file.
      file_name: path of the image, relative to the folder of images.
      width: width in pixels.
      height: height in pixels.
      instances: the annotated objects.
    """

    id: int
    file_name: str
    width: int
    height: int
    instances: list[Instance] = field(default_factory=list)

    def box(self, instance: Instance) -> np.ndarray:
        """Returns the box x0 y0 x1 y1 (4,) of an instance in pixels, clipped to the image."""
        x, y, width, height = instance.bbox
        return np.clip([x, y, x + width, y + height], 0, [self.width, self.height] * 2).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Annotations:
    """The usable entries of an annotation file.

    Attributes:
      images: images in the order of the file. Images without an instance are included.
      names: names of the categories, by label. Labels follow the order of the category ids.
      category_ids: ids of the categories, by label.
      keypoints: keypoints of all categories; None if keypoints are not read.
      problems: all faults of the file.
    """

    images: list[Image]
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    keypoints: Keypoints | None
    problems: list[Problem]


def read_annotations(path: str | os.PathLike, *, masks: bool = True, keypoints: bool = False) -> Annotations:
    """Reads the usable entries of an annotation file.

    An entry that cannot be used is left out and reported in `problems`. An annotation cannot be used if its mask or its
    keypoints are required and are not valid. A box that extends more than one pixel out of its image is reported, and
    kept.

    Args:
      path: the annotation file.
      masks: whether every annotation must have a mask.
      keypoints: whether to read the keypoints that the category of an annotation names. If an annotation has none, they
        count as not labelled, and that is reported.

    Raises:
      InputError: the file does not have this format, or it has no usable image or category.
    """
    path = os.fspath(path)
    content = _load(path)
    reader = _Reader(path, masks, keypoints)
    reader.read_categories(content["categories"])
    reader.read_images(content["images"])
    reader.read_annotations(content["annotations"])
    if not reader.images:
        first = f": {reader.problems[0]}" if reader.problems else ""
        raise InputError(f"{path}: no image of its {len(content['images'])} can be used{first}")
    return Annotations(list(reader.images.values()), reader.names, reader.ids, reader.keypoints, reader.problems)


def told(problems: list[Problem]) -> str:
    """Returns one line that gives the number of problems of each kind and the first problem in full."""
    counts = ", ".join(f"{count} of kind {kind!r}" for kind, count in counted(problems).items())
    return f"{counts}; the first: {problems[0]}" if problems else "nothing is wrong"


def _load(path: str) -> dict:
    valid = f"an object with the lists {', '.join(LISTS)}"
    if not os.path.isfile(path):
        raise InputError(f"{path}: {'not a regular file' if os.path.exists(path) else 'there is no such file'}")
    if not os.path.getsize(path):
        raise InputError(f"{path}: the file is empty, valid is JSON: {valid}")
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file)
    except (ValueError, RecursionError) as error:  # wrong form, wrong encoding, or too deeply nested
        raise InputError(f"{path}: not JSON ({error}), valid is {valid}") from error
    if isinstance(content, list) and content and isinstance(content[0], dict) and "score" in content[0]:
        raise InputError(f"{path}: found a list of results, which have a score, valid is {valid}")
    if not isinstance(content, dict):
        raise InputError(f"{path}: found {shown(content)}, valid is {valid}")
    for name in LISTS:
        if not isinstance(content.get(name), list):
            found = f"{name} {shown(content[name])}" if name in content else f"no {name}"
            raise InputError(f"{path}: found {found}, valid is {valid}")
    return content


class _Reader:
    """Reads the lists of one file in turn. Entries of earlier lists decide which later entries are valid."""

    def __init__(self, path: str, masks: bool, keypoints: bool):
        self._path, self._masks, self._keypoints = path, masks, keypoints
        self.problems: list[Problem] = []
        self.images: dict[int, Image] = {}
        self._labels: dict[int, int] = {}
        self._taken: dict[str, set[int]] = defaultdict(set)

    def read_categories(self, entries: list) -> None:
        categories: dict[int, tuple[str, Category]] = {}

        def read(record: dict) -> None:
            number = self._new_id("category", record)
            name = fields.text(record, "name")
            points = of_keypoints.category(record) if self._keypoints else Category()
            if any(name == other for other, _ in categories.values()):
                self._tell(f"category {number}", "repeated id", f"the repeated name {name!r}", "a unique name", "kept")
                name = f"{name} ({number})"
            categories[number] = name, points

        self._read_all("category", entries, read)
        if not categories:
            raise InputError(f"{self._path}: found no category that can be used: {told(self.problems)}")
        self.ids = tuple(sorted(categories))
        self._labels = {number: label for label, number in enumerate(self.ids)}
        self.names = tuple(categories[number][0] for number in self.ids)
        self.keypoints = Keypoints([categories[number][1] for number in self.ids]) if self._keypoints else None
        if self._keypoints and not len(self.keypoints):
            raise InputError(f"{self._path}: found no category with keypoints, valid is one or more")

    def read_images(self, entries: list) -> None:
        of_file: dict[str, int] = {}

        def read(record: dict) -> None:
            number = self._new_id("image", record)
            name = fields.text(record, "file_name")
            image = Image(number, name, fields.integer(record, "width", 1), fields.integer(record, "height", 1))
            if image.width * image.height > MAX_PIXELS_OF_STILL:
                found = f"a size of {image.width} x {image.height} pixels"
                raise Bad("entry", found, f"at most {MAX_PIXELS_OF_STILL} pixels")
            if (first := of_file.setdefault(name, number)) != number:
                self._tell(
                    f"image {number}", "repeated file", f"{name}, also of image {first}", "each file once", "kept"
                )
            self.images[number] = image

        self._read_all("image", entries, read)

    def read_annotations(self, entries: list) -> None:
        self._read_all("annotation", entries, self._read_annotation)

    def _read_annotation(self, record: dict) -> None:
        number = self._new_id("annotation", record)
        image = self.images.get(image_id := fields.integer(record, "image_id"))
        if image is None:
            raise Bad("unknown image", f"image_id {image_id}", "the id of an image that can be used")
        label = self._labels.get(category := fields.integer(record, "category_id"))
        if label is None:
            raise Bad("unknown category", f"category_id {category}", f"one of {shown(list(self.ids))}")
        where = f"annotation {number}"
        bbox = fields.bbox(record)
        segmentation, points = None, None
        if self._masks:
            value = fields.present(record, "segmentation", "polygons or run-lengths", "mask")
            segmentation, bad = parse(value, image.height, image.width)
            for part in bad:
                self._tell(where, part.kind, part.found, part.valid, "this part is dropped")
        if self._keypoints:
            points, places = np.zeros((len(self.keypoints), 3)), self.keypoints.of_category[label]
            if len(places) and record.get("keypoints") not in (None, []):
                points[places] = fields.keypoints(record, len(places))
            elif len(places):  # without its box, the object would count as background
                found = f"keypoints {shown(record['keypoints'])}" if "keypoints" in record else "no keypoints"
                self._tell(where, "keypoints", found, fields.valid_keypoints(len(places)), "taken as not labelled")
        crowd = self._crowd(where, record)
        area = self._area(where, record, bbox)
        instance = Instance(number, bbox, label, crowd, area, segmentation, points)
        self._check_place(where, instance, image)
        image.instances.append(instance)

    def _check_place(self, where: str, instance: Instance, image: Image) -> None:
        x, y, width, height = instance.bbox
        x0, y0, x1, y1 = image.box(instance)
        valid, found = f"a box inside the {image.width} x {image.height} image", f"bbox {shown(list(instance.bbox))}"
        if x1 <= x0 or y1 <= y0:
            raise Bad("box", found, valid)
        if instance.segmentation is not None:
            mask = extent(instance.segmentation, image.height, image.width)
            if min(mask[2] - x0, mask[3] - y0, x1 - mask[0], y1 - mask[1]) < -1:  # a box may be rounded
                around = shown([round(float(side), 1) for side in mask])
                raise Bad("mask", f"a mask in the box {around} (x0, y0, x1, y1)", f"a mask that overlaps its {found}")
        if max(x0 - x, y0 - y, x + width - x1, y + height - y1) > 1:
            self._tell(where, "box outside", found, valid, "clipped to the image for training")

    def _crowd(self, where: str, record: dict) -> bool:
        crowd = record.get("iscrowd")
        if crowd not in (0, 1):
            found = f"iscrowd {shown(crowd)}" if "iscrowd" in record else "no iscrowd"
            self._tell(where, "crowd", found, "0 or 1", "taken as 0")
            return False
        return bool(crowd)

    def _area(self, where: str, record: dict, bbox: tuple[float, ...]) -> float:
        area = record.get("area")
        if fields.is_number(area) and area > 0:
            return float(area)
        found = f"area {shown(area)}" if "area" in record else "no area"
        self._tell(where, "area", found, "a number above 0", "the area of the box is used")
        return float(bbox[2] * bbox[3])

    def _new_id(self, what: str, record: dict) -> int:
        number = fields.integer(record, "id")
        if number in self._taken[what]:
            raise Bad("repeated id", f"the repeated id {number}", "a unique id")
        self._taken[what].add(number)
        return number

    def _read_all(self, what: str, entries: list, read: Callable[[dict], None]) -> None:
        for place, value in enumerate(entries):
            try:
                read(fields.entry(value))
            except Bad as error:
                number = value.get("id") if isinstance(value, dict) else None
                where = f"{what} {shown(number)}" if number is not None else f"{what} at place {place}"
                self._tell(where, error.kind, error.found, error.valid, "dropped")

    def _tell(self, where: str, kind: str, found: str, valid: str, result: str) -> None:
        self.problems.append(Problem(self._path, where, kind, found, valid, result))
