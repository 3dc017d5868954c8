"""Images that an annotation file in COCO's format lists, in a folder."""

import os
from pathlib import Path

import numpy as np

from nl_jax.data.coco.annotations import Annotations, Image, read_annotations, told
from nl_jax.data.coco.detection import DetectionImages
from nl_jax.data.coco.example import Shape, is_tall
from nl_jax.data.coco.images import MULTIPLE, read_image
from nl_jax.data.coco.problems import Problem
from nl_jax.data.decode import Source
from nl_jax.errors import InputError


class CocoImages(DetectionImages):
    """The images that an annotation file lists; a class below this one says in `source` where their bytes are.

    Args:
        root: where the images lie, for messages.
        annotations: the annotation file, as `nl_jax.data.coco.annotations` has it.
        training: keeps only images to learn from: those with a box that is no crowd, and with `keypoints` those with a
            box that has a labelled keypoint.
        short_sides: pixels of the shorter side in training; one of them is drawn for every image.
        long_side: pixels of the longer side, at most.
        test_short_side: pixels of the shorter side in testing.
        max_boxes: g, true boxes that an example has room for.
        masks: whether examples have masks; then every annotation must have one.
        keypoints: whether examples have keypoints; then every annotation must have those that its category names.
        flip: whether half of the training images are mirrored.
        classes: must be those of the file where given.

    Attributes:
        problems: all that is wrong with the annotation file.
        listed: ids of all images of the file, in its order.
        unused: how many images of the file `training` leaves out.
        crowded: {file name: number of boxes} of images with more than g of them.

    Raises:
        InputError: the annotation file cannot be used, no image is left, its classes are not those asked for, or a
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
        if classes is not None and tuple(classes) != found.names:
            raise InputError(
                f"{annotations}: its categories are not those asked for, but {', '.join(found.names[:20])}"
            )
        self.problems: list[Problem] = found.problems
        self.listed = [image.id for image in found.images]
        self._annotated = _used(found, keypoints) if training else found.images
        self.unused = len(found.images) - len(self._annotated)
        if not self._annotated:
            raise InputError(
                f"{annotations}: none of its {self.unused} images can be trained on; {told(found.problems)}"
            )
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
        """The file of an image, or its bytes; may raise DecodeError."""
        raise NotImplementedError

    def annotated(self, index: int) -> Image:
        """What the annotation file says of an image."""
        return self._annotated[index]

    def pixels(self, index: int) -> np.ndarray:
        """uint8 (h, w, 3), the image in its own size; may raise DecodeError."""
        image = self._annotated[index]
        return read_image(self.source(image), image.width, image.height)


class CocoFolder(CocoImages):
    """A folder of images with an annotation file.

    Args:
        images: the folder that the file names are relative to.
        annotations: the annotation file.
        options: of `CocoImages`.

    Raises:
        InputError: as `CocoImages`, or there is no such folder.
    """

    def __init__(self, images: str | os.PathLike, annotations: str | os.PathLike, **options):
        self._folder = Path(images)
        if not self._folder.is_dir():
            raise InputError(f"{self._folder}: found no such folder, valid is that of the images of {annotations}")
        super().__init__(os.fspath(images), annotations, **options)

    def source(self, image: Image) -> Source:
        """The file of an image."""
        return self._folder / image.file_name


def _used(annotations: Annotations, keypoints: bool) -> list[Image]:
    def teaches(instance) -> bool:
        return not instance.crowd and (not keypoints or bool((instance.keypoints[:, 2] > 0).any()))

    return [image for image in annotations.images if any(map(teaches, image.instances))]


def _check_sizes(short_sides: tuple[int, ...], long_side: int, test_short_side: int, max_boxes: int) -> None:
    if not short_sides or min(short_sides) < MULTIPLE:
        raise InputError(f"short_sides: found {short_sides}, valid are integers from {MULTIPLE}, at least one")
    for name, value, low in (("test_short_side", test_short_side, MULTIPLE), ("max_boxes", max_boxes, 1)):
        if value < low:
            raise InputError(f"{name}: found {value}, valid are integers from {low}")
    if long_side < max(*short_sides, test_short_side):
        raise InputError(f"long_side: found {long_side}, valid is at least every short side")
