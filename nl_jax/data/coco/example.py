"""The arrays of one image and of its true boxes, masks and keypoints.

Their sizes are fixed, so a network compiles once.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from nl_jax.data.coco.annotations import Image
from nl_jax.data.coco.images import bucket_of, resize, scaled_size
from nl_jax.data.coco.masks import SIDE, bitmap, drawn

Example = dict[str, np.ndarray | np.generic]


@dataclass(frozen=True)
class Shape:
    """The sizes of scaled and padded images.

    Attributes:
      short_sides: pixels of the shorter side in training; one value is drawn for every image.
      long_side: maximum pixels of the longer side.
      test_short_side: pixels of the shorter side in testing.
      max_boxes: g, the maximum number of true boxes in an example.
    """

    short_sides: tuple[int, ...] = (800,)
    long_side: int = 1333
    test_short_side: int = 800
    max_boxes: int = 100

    def bucket(self, tall: bool) -> tuple[int, int]:
        """Returns the height and width of padded images, the same in training and testing.

        Args:
          tall: whether the images are higher than wide.
        """
        wide = bucket_of(max(*self.short_sides, self.test_short_side), self.long_side)
        return wide[::-1] if tall else wide


def is_tall(image: Image) -> bool:
    """Returns whether the image is higher than wide."""
    return image.height > image.width


def padded(pixels: UInt8[np.ndarray, "h w 3"], image: Image, short_side: int, shape: Shape) -> Example:
    """Returns the image, scaled, and padded below and on the right.

    Args:
      pixels: the image in its original size.
      image: its entry in the annotation file.
      short_side: pixels of the shorter side after scaling.
      shape: sizes of the padded image.

    Returns:
      images: uint8 (h, w, 3), the padded image; the padding is 0.
      sizes: int32 (2,), height and width of the scaled image.
      scale: float32 (2,), factors of y and x from the original to the scaled image.
      image_id: int64 (), id of the image in the annotation file.
    """
    height, width = scaled_size(image.height, image.width, short_side, shape.long_side)
    images = np.zeros((*shape.bucket(is_tall(image)), 3), np.uint8)
    images[:height, :width] = resize(pixels, height, width)
    return {
        "images": images,
        "sizes": np.array([height, width], np.int32),
        "scale": np.array([height / image.height, width / image.width], np.float32),
        "image_id": np.int64(image.id),
    }


def truth(image: Image, scale: np.ndarray, chosen: np.ndarray, shape: Shape, *, masks: bool, points: int) -> Example:
    """Returns the ground truth of an image, padded to g instances, in pixels of the scaled image.

    Args:
      image: the image and its instances.
      scale: (2,), factors of y and x from the original to the scaled image.
      chosen: (n,), indices of the instances to return, n at most g.
      shape: its `max_boxes` is g.
      masks: whether to return masks.
      points: k, the number of keypoints; 0 returns none.

    Returns:
      boxes: float32 (g, 4), x0 y0 x1 y1.
      classes: int32 (g,), labels from 0.
      crowd: bool (g,), whether the instance is a crowd.
      valid: bool (g,), False in the padding.
      masks: uint8 (g, 112, 112) of 0 and 1, within the true box, if `masks`.
      keypoints: float32 (g, k, 3), x and y of the centre of the pixel, and the visibility, if k is above 0.
    """
    g = shape.max_boxes
    result = {
        "boxes": np.zeros((g, 4), np.float32),
        "classes": np.zeros(g, np.int32),
        "crowd": np.zeros(g, bool),
        "valid": np.zeros(g, bool),
    }
    if masks:
        result["masks"] = np.zeros((g, SIDE, SIDE), np.uint8)
    if points:
        result["keypoints"] = np.zeros((g, points, 3), np.float32)
    y, x = scale
    for place, number in enumerate(chosen):
        instance = image.instances[number]
        box = image.box(instance)
        result["boxes"][place] = box * (x, y, x, y)
        result["classes"][place] = instance.label
        result["crowd"][place] = instance.crowd
        result["valid"][place] = True
        if masks:
            result["masks"][place] = bitmap(drawn(instance.segmentation, image.height, image.width), box)
        if points:
            labelled = instance.keypoints[:, 2:] > 0
            # The file gives the index of a pixel. The centre of the pixel is half a pixel further.
            centres = (instance.keypoints + np.array([0.5, 0.5, 0])) * (x, y, 1)
            result["keypoints"][place] = np.where(labelled, centres, 0)
    return result


def mirrored(example: Example, flip_order: np.ndarray | None) -> Example:
    """Returns the example with left and right exchanged in the image, boxes, masks and keypoints.

    Args:
      example: arrays of `padded` and `truth`.
      flip_order: (k,), keypoint i of the result is keypoint `flip_order[i]` of the example. None for examples without
        keypoints.
    """
    height, width = example["sizes"]
    images = example["images"].copy()
    images[:height, :width] = images[:height, :width][:, ::-1].copy()
    x0, y0, x1, y1 = example["boxes"].T
    boxes = np.stack([width - x1, y0, width - x0, y1], 1) * example["valid"][:, None]
    result = example | {"images": images, "boxes": boxes.astype(np.float32)}
    if "masks" in example:
        result["masks"] = np.ascontiguousarray(example["masks"][:, :, ::-1])
    if "keypoints" in example:
        points = example["keypoints"][:, flip_order]
        points[..., 0] = np.where(points[..., 2] > 0, width - points[..., 0], 0)
        result["keypoints"] = points
    return result
