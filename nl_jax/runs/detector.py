"""A detector that finds the objects of an image, in pixels of that image. The module needs `pycocotools`."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Bool, Float, UInt8

from nl_jax.data.coco.annotations import Image
from nl_jax.data.coco.example import padded
from nl_jax.data.coco.images import read_upright
from nl_jax.data.coco.keypoints import COCO_NAMES, Keypoints, category, of_coco
from nl_jax.data.coco.masks import compressed
from nl_jax.data.coco.problems import Bad
from nl_jax.data.media.decode import all_frames, to_rgb_of
from nl_jax.data.media.image_files import is_picture
from nl_jax.data.media.packets import index_of
from nl_jax.errors import InputError
from nl_jax.evaluation.paste import paste
from nl_jax.models import flat
from nl_jax.models.flat import FlatParams
from nl_jax.places import Place
from nl_jax.tasks import task_of
from nl_jax.tasks.detection import Detection
from nl_jax.training import sharding, workdir
from nl_jax.training.evaluator import Evaluator
from nl_jax.zoo.pretrained import pretrained
from nl_jax.zoo.table import find


@dataclass(frozen=True)
class Objects:
    """The n objects found in an image (h,w), sorted from the highest score to the lowest.

    Attributes:
      classes: class names by label.
      labels: (n,), labels of the objects.
      scores: (n,), scores of the objects.
      boxes: (n,4), x0 y0 x1 y1 in pixels.
      masks: (n,h,w), the pixels of each object. None for a network without masks.
      keypoints: (n,k,3), x and y in pixels and score. None for a network without keypoints.
      of_keypoints: the names and skeletons of the keypoints of each class. None for a network without keypoints.
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    scores: Float[np.ndarray, "n"]
    boxes: Float[np.ndarray, "n 4"]
    masks: Bool[np.ndarray, "n h w"] | None
    keypoints: Float[np.ndarray, "n k 3"] | None = None
    of_keypoints: Keypoints | None = None

    def as_list(self) -> list[dict]:
        """Returns the class, label, score, box and mask or keypoints of each object, for JSON.

        A mask has the run-length format of pycocotools. Keypoints are {name: [x, y, score]}.
        """
        found = []
        for place, label in enumerate(self.labels.tolist()):
            one = {"class": self.classes[label], "label": label, "score": round(float(self.scores[place]), 4)}
            one["box"] = [round(float(side), 2) for side in self.boxes[place]]
            if self.masks is not None:
                one["mask"] = compressed(self.masks[place].astype(np.uint8))
            if self.keypoints is not None:
                places = self.of_keypoints.of_category[label].tolist()
                names = self.of_keypoints.categories[label].names
                points = self.keypoints[place, places].astype(float).round(2).tolist()
                one["keypoints"] = dict(zip(names, points, strict=True))
            found.append(one)
        return found

    def skeletons(self) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """Returns the lines of the skeleton of each object, as pairs of points (2,) in pixels.

        The lines include a line from each keypoint to itself, so that keypoints outside the skeleton are drawn too.
        """
        found = []
        for place, label in enumerate(self.labels.tolist() if self.keypoints is not None else ()):
            points, of = self.keypoints[place, :, :2], self.of_keypoints
            alone = [(at, at) for at in of.of_category[label].tolist()]
            found.append([(points[a], points[b]) for a, b in (*of.skeleton(label), *alone)])
        return found


class Detector:
    """The network of a detection run, with the image sizes of the config of the run.

    Args:
      directory: the workdir of the run.
      best: whether the checkpoint is the best by validation. Otherwise it is the newest.

    Raises:
      InputError: the workdir belongs to another kind of run.
    """

    def __init__(self, directory: Place, *, best: bool = False):
        config = workdir.read_config(directory)
        task = task_of(config)
        if not isinstance(task, Detection):
            raise InputError(
                f"{directory}: the task of the run is {config.get('task', 'classification')}; valid is detection"
            )
        arrays = workdir.restore_arrays(directory, task, _mesh(), best=best)
        classes = workdir.read_classes(directory)
        count = config.detector.get("keypoints")
        keypoints = read_keypoints(directory, len(classes), count) if count else None
        self._prepare(task, classes, keypoints, *arrays)

    @classmethod
    def from_pretrained(cls, name: str, path: str | Path | None = None) -> "Detector":
        """Returns the detector of a published network, and takes the same arguments as `nl_jax.from_pretrained`.

        Raises:
          InputError: as in `nl_jax.from_pretrained`, or the network is not a detector.
        """
        if not find(name).is_detector:  # before a download
            raise InputError(f"{name} classifies videos: load it with nl_jax.Predictor.from_pretrained")
        found = pretrained(name, path)
        detector = cls.__new__(cls)
        keypoints = of_coco(len(found.classes)) if found.config.detector.get("keypoints") else None
        detector._prepare(task_of(found.config), found.classes, keypoints, *flat.split(found.model))
        return detector

    def _prepare(
        self,
        task: Detection,
        classes: tuple[str, ...],
        keypoints: Keypoints | None,
        graphdef: nnx.GraphDef,
        *arrays: FlatParams,
    ):
        self.classes, self._shape, self._keypoints = classes, task.shape(), keypoints
        self._forward = partial(Evaluator(graphdef, task.forward(), _mesh()).outputs, *arrays)

    def __call__(self, image: UInt8[np.ndarray, "h w 3"], min_score: float = 0.5) -> Objects:
        """Returns the objects of an image with a score of at least `min_score`."""
        height, width = image.shape[:2]
        example = padded(image, Image(0, "", width, height), self._shape.test_short_side, self._shape)
        found = self._forward({name: example[name][None] for name in ("images", "sizes")})
        found = {name: np.asarray(array[0]) for name, array in found.items()}
        kept = np.flatnonzero(found["valid"] & (found["scores"] >= min_score))
        y, x = example["scale"]
        boxes = (found["boxes"][kept] / (x, y, x, y)).astype(np.float32)
        masks = None
        if "masks" in found:
            masks = paste(found["masks"][kept], boxes, (height, width), whole_pixels=False)
        keypoints = (found["keypoints"][kept] / (x, y, 1)).astype(np.float32) if self._keypoints is not None else None
        labels, scores = found["classes"][kept], found["scores"][kept]
        return Objects(self.classes, labels, scores, boxes, masks, keypoints, self._keypoints)


def read_keypoints(directory: Place, classes: int, count: int) -> Keypoints:
    """Returns the keypoints of the categories on which a run was trained.

    A workdir of imported weights has no file of keypoints. Its keypoints are COCO's, or have the names 1, 2, .. if the
    network has another number of keypoints.

    Args:
      directory: the workdir of the run.
      classes: number of classes.
      count: number of keypoints of the network.

    Raises:
      InputError: keypoints.json cannot be read.
    """
    path = directory / "keypoints.json"
    if not path.exists():
        numbered = Keypoints([category({"keypoints": [str(place + 1) for place in range(count)]})] * classes)
        return of_coco(classes) if count == len(COCO_NAMES) else numbered
    try:
        return Keypoints([category(entry) for entry in json.loads(path.read_text(encoding="utf-8"))])
    except (ValueError, Bad) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _mesh() -> Mesh:
    return sharding.make_mesh(1, 1, devices=jax.local_devices()[:1])  # one image at a time needs one device


def frames(path: str, every: float = 0.0) -> Iterator[tuple[int, float, np.ndarray]]:
    """Yields (number, time in seconds, image uint8 (h,w,3)) of the frames of a video, or of an image.

    Args:
      path: path of a video, an image or a folder of numbered images.
      every: smallest number of seconds from one yielded frame to the next. 0 yields every frame.

    Raises:
      DecodeError: no frame can be decoded, or an image cannot be decoded whole.
    """
    if is_picture(os.path.basename(path)):
        yield 0, 0.0, read_upright(path)
        return
    index = index_of(path)
    to_rgb, due = to_rgb_of(path, index, None), 0.0
    for number, frame in enumerate(all_frames(path)):
        seconds = number / index.rate if index.rate else 0.0
        if seconds >= due:
            due = seconds + every
            yield number, seconds, to_rgb(frame)
