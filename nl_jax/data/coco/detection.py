"""The base of every detection dataset: training examples, test examples, and the ground truth for scoring."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from nl_jax.data.coco.annotations import Image
from nl_jax.data.coco.example import Example, Shape, mirrored, padded, truth
from nl_jax.data.coco.keypoints import Keypoints
from nl_jax.data.coco.problems import Problem
from nl_jax.data.dataset import MAX_FAILED, padded_failed
from nl_jax.data.media.failure import DecodeError


class DetectionImages:
    """Annotated images from any source. A subclass implements `annotated` and `pixels`.

    Args:
      root: place of the images, for error messages.
      names: names of the images.
      classes: names of the categories, by label.
      category_ids: ids of the categories in the annotation file, by label.
      groups: (n,) group of every image. Images of one group have the same padded shape, and a batch holds images of one
        group only.
      shape: sizes of the scaled and padded images.
      masks: whether examples have masks.
      keypoints: the keypoints of the examples; None for examples without keypoints.
      flip: whether half of the training images are mirrored.

    Attributes:
      names, classes, category_ids, groups, shape, masks, keypoints: the arguments.
      problems: all faults of the annotation file, if there is one.
      unused: number of images that are left out because they have no object to learn from.
      crowded: {name: number of objects} of images with more objects than an example holds.
    """

    ignored: Sequence[str] = ()  # only listed files are read
    problems: Sequence[Problem] = ()
    unused: int = 0
    crowded: Mapping[str, int] = MappingProxyType({})

    def __init__(
        self,
        root: str,
        names: Sequence[str],
        classes: tuple[str, ...],
        category_ids: tuple[int, ...],
        groups: np.ndarray,
        *,
        shape: Shape,
        masks: bool,
        keypoints: Keypoints | None = None,
        flip: bool = True,
    ):
        self._root, self.names, self.classes, self.category_ids = root, names, classes, category_ids
        self.groups, self.shape, self.keypoints = groups, shape, keypoints
        self.masks, self._flip = masks, flip

    def __len__(self) -> int:
        return len(self.groups)

    def annotated(self, index: int) -> Image:
        """Returns the id, size and instances of an image."""
        raise NotImplementedError

    def pixels(self, index: int) -> np.ndarray:
        """Returns the image in its original size, uint8 (h, w, 3). Raises DecodeError if it cannot be decoded."""
        raise NotImplementedError

    def train_example(self, index: int, rng: np.random.Generator) -> Example:
        """Returns an image at a random scale, mirrored with probability 1/2.

        The result depends only on `index` and the state of `rng`. If the image cannot be
        decoded, another image of its group replaces it. An image with more than g boxes keeps g random boxes.

        Args:
          index: the number of the image.
          rng: source of all random choices.

        Returns:
          the arrays of `nl_jax.data.coco.example.padded` and of `nl_jax.data.coco.example.truth`.
          index: int32 (), the requested index.
          failed: int32 (MAX_FAILED,), indices of images that could not be decoded, padded with -1.

        Raises:
          DecodeError: MAX_FAILED + 1 images, or all images of the group, cannot be decoded.
        """
        seed = int(rng.integers(2**63))
        failed: list[int] = []
        reasons: list[str] = []
        for shown in self._candidates(index, seed):
            try:
                pixels = self.pixels(shown)
            except DecodeError as error:
                failed.append(shown)
                reasons.append(error.reason)
                continue
            return self._random_example(shown, pixels, seed) | _facts(index, failed)
        names = ", ".join(self.names[i] for i in failed)
        raise DecodeError(
            self._root,
            f"{len(failed)} of {len(self)} images tried, none can be decoded: {names}; the first: {reasons[0]}",
        )

    def test_example(self, index: int) -> Example:
        """Returns an image at the test scale, without its ground truth, which `coco` returns.

        An image that cannot be decoded is black, and its index is the first of `failed`. It is not replaced.

        Returns:
          the arrays of `nl_jax.data.coco.example.padded`, and `index` and `failed` as in `train_example`.
        """
        image, failed = self.annotated(index), []
        try:
            pixels = self.pixels(index)
        except DecodeError:
            failed.append(index)
            pixels = np.zeros((image.height, image.width, 3), np.uint8)
        return padded(pixels, image, self.shape.test_short_side, self.shape) | _facts(index, failed)

    def failure_reason(self, index: int) -> str:
        """Returns the reason why an image of `failed` cannot be decoded. It decodes the image again to find it."""
        try:
            self.pixels(index)
        except DecodeError as error:
            return error.reason
        return "it decodes now"

    def coco(self) -> dict:
        """Returns the ground truth of all images in COCO's format, for pycocotools.

        Annotations are numbered from 1, because 0 means "no match" in pycocotools.
        """
        images = [self.annotated(index) for index in range(len(self))]
        return truth_of(images, self.classes, self.category_ids, self.keypoints)

    def list_hash(self) -> str:
        """Returns a hash (12 hex digits) of the images and boxes. It does not depend on their folder or order."""
        lines = sorted(self._line(index) for index in range(len(self)))
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:12]

    def _line(self, index: int) -> str:
        image = self.annotated(index)
        boxes = sorted(f"{self.classes[item.label]} {item.bbox} {item.crowd:d}" for item in image.instances)
        return f"{self.names[index]},{';'.join(boxes)}"

    def _random_example(self, index: int, pixels: np.ndarray, seed: int) -> Example:
        rng = np.random.default_rng(seed)  # the draws do not depend on the number of failed images
        image, shape = self.annotated(index), self.shape
        short_side = int(rng.choice(shape.short_sides))
        mirror = bool(rng.integers(2)) and self._flip
        count = len(image.instances)
        chosen = np.sort(rng.permutation(count)[: shape.max_boxes])
        example = padded(pixels, image, short_side, shape)
        points = 0 if self.keypoints is None else len(self.keypoints)
        example |= truth(image, example["scale"], chosen, shape, masks=self.masks, points=points)
        return mirrored(example, None if self.keypoints is None else self.keypoints.flip_order) if mirror else example

    def _candidates(self, index: int, seed: int) -> Iterator[int]:
        """Yields the requested image, then other images of its group in random order."""
        yield index
        others = np.flatnonzero(self.groups == self.groups[index])
        others = others[others != index]
        yield from np.random.default_rng((seed, 1)).permutation(others)[:MAX_FAILED].tolist()


def truth_of(
    images: Sequence[Image], classes: Sequence[str], category_ids: Sequence[int], keypoints: Keypoints | None = None
) -> dict:
    """Returns the images and their annotations in COCO's format. Annotations are numbered from 1.

    Args:
      images: the images.
      classes: names of the categories, by label.
      category_ids: ids of the categories, by label.
      keypoints: keypoints of all categories; None writes none.
    """
    annotations = []
    for image in images:
        for instance in image.instances:
            entry = {
                "id": len(annotations) + 1,
                "image_id": image.id,
                "category_id": category_ids[instance.label],
                "bbox": list(instance.bbox),
                "area": instance.area,
                "iscrowd": int(instance.crowd),
            }
            if instance.segmentation is not None:
                entry["segmentation"] = instance.segmentation
            if keypoints is not None and len(places := keypoints.of_category[instance.label]):
                entry["keypoints"] = instance.keypoints[places].ravel().tolist()
                entry["num_keypoints"] = int((instance.keypoints[places, 2] > 0).sum())
            annotations.append(entry)
    categories = [{"id": number, "name": name} for number, name in zip(category_ids, classes, strict=True)]
    if keypoints is not None:
        categories = [one | of.entry() for one, of in zip(categories, keypoints.categories, strict=True)]
    listed = [
        {"id": image.id, "file_name": image.file_name, "width": image.width, "height": image.height} for image in images
    ]
    return {"images": listed, "annotations": annotations, "categories": categories}


def _facts(index: int, failed: list[int]) -> Example:
    return {"index": np.int32(index), "failed": padded_failed(failed)}
