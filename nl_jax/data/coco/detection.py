"""The base of every data set of detection: random training examples, plain test examples, and the truth to score."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from nl_jax.data.coco.annotations import Image
from nl_jax.data.coco.example import Example, Shape, mirrored, padded, truth
from nl_jax.data.coco.keypoints import Keypoints
from nl_jax.data.coco.problems import Problem
from nl_jax.data.decode import DecodeError
from nl_jax.data.videos import MAX_FAILED


class DetectionImages:
    """n annotated images. A subclass says in `annotated` and `pixels` where they come from.

    Args:
        root: the place of the images, for messages.
        names: the names of the images.
        classes: the names of the categories by label.
        category_ids: the ids of the categories in the annotation file by label.
        groups: (n,), images of one group have one padded shape; a batch holds images of one group.
        shape: the sizes of the scaled and padded images.
        masks: whether examples have masks.
        keypoints: the keypoints of examples; none by default.
        flip: whether half of the training images are mirrored.

    Attributes:
        names, classes, category_ids, groups, shape, masks, keypoints: as given.
        problems: every fault of the annotation file, if there is a file.
        unused: the number of images without an object to learn from, which are left out.
        crowded: from the name of each image with more objects than an example holds to their number.
    """

    ignored: Sequence[str] = ()  # files that are not listed are never looked at
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
        """Returns the image in its own size, uint8 (h, w, 3); may raise DecodeError."""
        raise NotImplementedError

    def train_example(self, index: int, rng: np.random.Generator) -> Example:
        """Returns an image at a random scale; half of the images are mirrored. It depends on `index` and `rng` alone.

        If an image cannot be decoded, another image of its group replaces it. If an image has more than g boxes, g of
        them are drawn at random.

        Returns:
            the arrays of `nl_jax.data.coco.example.padded` and `truth`, and
            index: int32, as given.
            failed: int32 (MAX_FAILED,), indices of images that could not be decoded, padded with -1.

        Raises:
            DecodeError: MAX_FAILED + 1 images, or all images of the group, cannot be decoded.
        """
        seed = int(rng.integers(2**63))
        failed: list[int] = []
        for shown in self._candidates(index, seed):
            try:
                pixels = self.pixels(shown)
            except DecodeError:
                failed.append(shown)
                continue
            return self._random_example(shown, pixels, seed) | _facts(index, failed)
        names = ", ".join(self.names[i] for i in failed)
        raise DecodeError(self._root, f"{len(failed)} of {len(self)} images tried, none can be decoded: {names}")

    def test_example(self, index: int) -> Example:
        """Returns an image at the test scale, without its truth, which `coco` returns.

        An image that cannot be decoded is not replaced. It is black, and `failed` begins with its index.

        Returns:
            the arrays of `nl_jax.data.coco.example.padded`, and index and failed as in `train_example`.
        """
        image, failed = self.annotated(index), []
        try:
            pixels = self.pixels(index)
        except DecodeError:
            failed.append(index)
            pixels = np.zeros((image.height, image.width, 3), np.uint8)
        return padded(pixels, image, self.shape.test_short_side, self.shape) | _facts(index, failed)

    def failure_reason(self, index: int) -> str:
        """Decodes an image of `failed` once more and returns the reason of the failure, or that it decodes now."""
        try:
            self.pixels(index)
        except DecodeError as error:
            return error.reason
        return "it decodes now"

    def coco(self) -> dict:
        """Returns the truth of all images in COCO's format, for pycocotools.

        Annotations are numbered from 1, since to pycocotools the number 0 means "no match".
        """
        images = [self.annotated(index) for index in range(len(self))]
        return truth_of(images, self.classes, self.category_ids, self.keypoints)

    def list_hash(self) -> str:
        """Returns 12 hex digits that name this list of images and boxes, in any place and in any order."""
        lines = sorted(self._line(index) for index in range(len(self)))
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:12]

    def _line(self, index: int) -> str:
        image = self.annotated(index)
        boxes = sorted(f"{self.classes[item.label]} {item.bbox} {item.crowd:d}" for item in image.instances)
        return f"{self.names[index]},{';'.join(boxes)}"

    def _random_example(self, index: int, pixels: np.ndarray, seed: int) -> Example:
        rng = np.random.default_rng(seed)  # draws do not depend on how many images failed before
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
        """Yields the given image, then others of its group in a random order."""
        yield index
        others = np.flatnonzero(self.groups == self.groups[index])
        others = others[others != index]
        yield from np.random.default_rng((seed, 1)).permutation(others)[:MAX_FAILED].tolist()


def truth_of(
    images: Sequence[Image], classes: Sequence[str], category_ids: Sequence[int], keypoints: Keypoints | None = None
) -> dict:
    """Returns the images and all their annotations in COCO's format. Annotations are numbered from 1."""
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
    padded_failed = np.full(MAX_FAILED, -1, np.int32)
    padded_failed[: len(failed)] = failed
    return {"index": np.int32(index), "failed": padded_failed}
