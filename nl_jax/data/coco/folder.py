"""Detection datasets from an annotation file in COCO's format and a folder of images."""

import dataclasses
import itertools
import os
from pathlib import Path

import numpy as np

from nl_jax.data.coco.annotations import Annotations, Image, read_annotations, told
from nl_jax.data.coco.detection import DetectionImages
from nl_jax.data.coco.example import Shape, is_tall
from nl_jax.data.coco.images import MULTIPLE, read_image
from nl_jax.data.coco.problems import Problem
from nl_jax.data.media.failure import Source
from nl_jax.errors import InputError


class CocoImages(DetectionImages):
    """The images of an annotation file. A subclass implements `source`, which finds the bytes of an image.

    Args:
      root: place of the images, for error messages.
      annotations: the annotation file; `nl_jax.data.coco.annotations` describes its format.
      training: keeps only images with a box that is not a crowd. With `keypoints` this box must have a labelled
        keypoint.
      short_sides: pixels of the shorter side in training; one value is drawn for every image.
      long_side: maximum pixels of the longer side.
      test_short_side: pixels of the shorter side in testing.
      max_boxes: g, the maximum number of true boxes in an example.
      masks: whether examples have masks. Then every annotation must have one.
      keypoints: whether examples have keypoints.
      flip: whether half of the training images are mirrored.
      classes: category names by label; None takes the names of the file. The file may lack some of them, because a
        small split may have no object of a category. With keypoints it may lack none.

    Attributes:
      problems: all faults of the annotation file.
      listed: ids of all images of the file, in its order.
      unused: number of images of the file that `training` leaves out.
      crowded: {file name: number of boxes} of images with more than g boxes.

    Raises:
      InputError: the annotation file cannot be used, no image is left, a category is not one of `classes`, or a
        number is out of range.
    """

    def __init__(
        self,
        root: str,
        annotations: str | os.PathLike,
        *,
        training: bool,
        short_sides: tuple[int, ...] = (800,),
        long_side: int = 1333,
        test_short_side: int = 800,
        max_boxes: int = 100,
        masks: bool = True,
        keypoints: bool = False,
        flip: bool = True,
        classes: tuple[str, ...] | None = None,
    ):
        _check_sizes(short_sides, long_side, test_short_side, max_boxes)
        found = read_annotations(annotations, masks=masks, keypoints=keypoints)
        if classes is not None:
            found = _labelled(found, tuple(classes), annotations)
        self.problems: list[Problem] = found.problems
        self.listed = [image.id for image in found.images]
        self._annotated = _used(found, keypoints) if training else found.images
        self.unused = len(found.images) - len(self._annotated)
        if not self._annotated:
            raise InputError(f"{annotations}: none of its {self.unused} images {_reason(found, masks)}")
        counts = {image.file_name: len(image.instances) for image in self._annotated}
        self.crowded = {name: count for name, count in counts.items() if count > max_boxes}
        super().__init__(
            root,
            [image.file_name for image in self._annotated],
            found.names,
            found.category_ids,
            np.array([is_tall(image) for image in self._annotated], np.int32),
            shape=Shape(tuple(short_sides), long_side, test_short_side, max_boxes),
            masks=masks,
            keypoints=found.keypoints,
            flip=flip,
        )

    def source(self, image: Image) -> Source:
        """Returns the path of an image's file, or its bytes. A subclass may raise DecodeError."""
        raise NotImplementedError

    def annotated(self, index: int) -> Image:
        """Returns the id, size and instances of an image from the annotation file."""
        return self._annotated[index]

    def pixels(self, index: int) -> np.ndarray:
        """Returns the image in its original size, uint8 (h, w, 3). Raises DecodeError if it cannot be decoded."""
        image = self._annotated[index]
        return read_image(self.source(image), image.width, image.height)


class CocoFolder(CocoImages):
    """A folder of images with an annotation file.

    Args:
      images: the folder that the file names are relative to.
      annotations: the annotation file.
      options: arguments of `CocoImages`.

    Raises:
      InputError: as in `CocoImages`, or the folder does not exist.
    """

    def __init__(self, images: str | os.PathLike, annotations: str | os.PathLike, **options):
        self._folder = Path(images)
        if not self._folder.is_dir():
            raise InputError(
                f"{self._folder}: the folder does not exist, valid is the folder with the images of {annotations}"
            )
        super().__init__(os.fspath(images), annotations, **options)

    def source(self, image: Image) -> Source:
        """Returns the path of an image's file."""
        return self._folder / image.file_name


def _labelled(found: Annotations, classes: tuple[str, ...], path: str | os.PathLike) -> Annotations:
    """Returns annotations with the labels of `classes`. Classes without a category get ids that the file does not use.

    Raises:
      InputError: a category is not one of the classes.
    """
    if found.names == classes:
        return found
    if found.keypoints is not None or not set(found.names) <= set(classes):
        others = tuple(name for name in found.names if name not in classes) or found.names
        raise InputError(
            f"{path}: its categories are not the requested ones; found {_listed(others)}, valid is {_listed(classes)}"
        )
    ids = dict(zip(found.names, found.category_ids, strict=True))
    unused = itertools.count(max(found.category_ids) + 1)
    labels = [classes.index(name) for name in found.names]

    def labelled(image: Image) -> Image:
        instances = [dataclasses.replace(one, label=labels[one.label]) for one in image.instances]
        return dataclasses.replace(image, instances=instances)

    return dataclasses.replace(
        found,
        images=[labelled(image) for image in found.images],
        names=classes,
        category_ids=tuple(ids[name] if name in ids else next(unused) for name in classes),
    )


def _used(annotations: Annotations, keypoints: bool) -> list[Image]:
    def teaches(instance) -> bool:
        return not instance.crowd and (not keypoints or bool((instance.keypoints[:, 2] > 0).any()))

    return [image for image in annotations.images if any(map(teaches, image.instances))]


def _reason(annotations: Annotations, masks: bool) -> str:
    """Returns the end of a message: why training uses none of the images."""
    instances = [instance for image in annotations.images for instance in image.instances]
    if instances and all(instance.crowd for instance in instances):
        why = (
            f"has an object to learn from: all {len(instances)} annotations have iscrowd 1; set it to 0 for one object"
        )
    elif instances:
        why = "has an object with a labelled keypoint"
    else:
        why = "has an annotation that can be used"
    if annotations.problems:
        why += f"; {told(annotations.problems)}"
    if masks and not instances and any(problem.kind == "mask" for problem in annotations.problems):
        why += "; to train on boxes alone, set detector.masks=False"
    return why


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _check_sizes(short_sides: tuple[int, ...], long_side: int, test_short_side: int, max_boxes: int) -> None:
    if not short_sides or min(short_sides) < MULTIPLE:
        raise InputError(f"short_sides: found {short_sides}, valid are integers from {MULTIPLE}, at least one")
    for name, value, low in (("test_short_side", test_short_side, MULTIPLE), ("max_boxes", max_boxes, 1)):
        if value < low:
            raise InputError(f"{name}: found {value}, valid are integers from {low}")
    if long_side < max(*short_sides, test_short_side):
        raise InputError(f"long_side: found {long_side}, valid is at least every short side")
