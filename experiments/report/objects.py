"""Collects the figures of a detector by size and by class, and its worst mistakes."""

import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from experiments.report.frames import data_url, tested
from experiments.report.runs import PastRun, read_json
from nl_jax.data.media.failure import DecodeError
from nl_jax.figures.detections import draw_objects

SIDE = 380  # pixels of the longer side of a picture
SIZES = {"small": "small, below 32 x 32 pixels", "medium": "medium", "large": "large, from 96 x 96 pixels"}
KINDS = ("box", "mask")


@dataclass(frozen=True)
class Mistake:
    """A true object that is missed, or a detection without a true object of its class."""

    name: str
    text: str
    picture: str


class Objects:
    """The detections in the images on which a run was tested.

    Args:
      run: the run.
      show: maximum number of misses and of false alarms.

    Attributes:
      kinds: box, and mask if the run has masks.
      by_size: (size, AP by kind). An AP is None if there is no object of this size.
      by_class: (class, AP by kind), the lowest AP first. An AP is None if there is no object of this class.
      misses: true objects without a detection of their class at an IoU of 0.5, or with the lowest scores.
      false_alarms: detections with the highest scores that match no true object of their class at an IoU of 0.5.
      reason: why no mistakes can be shown; "" if they can.
    """

    def __init__(self, run: PastRun, show: int):
        results, by_class = run.results, read_json(run.found / "ap_by_class.json")
        self.kinds = [kind for kind in KINDS if kind in by_class]
        self.by_size = [
            (label, [results.get(f"{kind}_ap_{size}") for kind in self.kinds]) for size, label in SIZES.items()
        ]
        self.by_class = [(name, [by_class[kind][name] for kind in self.kinds]) for name in by_class["box"]]
        self.by_class.sort(key=lambda row: np.inf if row[1][0] is None else row[1][0])
        self.misses, self.false_alarms = [], []
        self._dataset, self.reason = tested(run)
        if self._dataset is not None:
            self._compare(read_json(run.found / "detections.json"), show)

    def _compare(self, detections: list[dict], show: int) -> None:
        from nl_jax.evaluation.coco import matches

        truth = self._dataset.coco()
        self._index_of = {image["id"]: index for index, image in enumerate(truth["images"])}
        self._names = {category["id"]: category["name"] for category in truth["categories"]}
        self._true, self._found = _by_image(truth["annotations"]), _by_image(detections)
        matched = matches(truth, detections) if detections else []
        score_of = {int(at): found["score"] for at, found in zip(matched, detections, strict=True) if at}
        real = [true for true in truth["annotations"] if not true["iscrowd"]]
        missed = sorted(real, key=lambda true: (score_of.get(true["id"], 0.0), -true["area"]))
        self.misses = [self._miss(true, score_of.get(true["id"])) for true in missed[:show]]
        alarms = [found for at, found in zip(matched, detections, strict=True) if not at]
        alarms.sort(key=lambda found: -found["score"])
        self.false_alarms = [self._false_alarm(found) for found in alarms[:show]]

    def _miss(self, true: dict, score: float | None) -> Mistake:
        name = self._names[true["category_id"]]
        text = f"{name}, not found" if score is None else f"{name}, found with a score of {score:.1%}"
        others = [one for one in self._found.get(true["image_id"], ()) if one["category_id"] != true["category_id"]]
        taken = [one for one in others if _iou(one, true) >= 0.5]
        if taken:
            surest = max(taken, key=lambda one: one["score"])
            text += f"; taken for {self._names[surest['category_id']]} ({surest['score']:.1%})"
        return self._mistake(true, text)

    def _false_alarm(self, found: dict) -> Mistake:
        text = f"{self._names[found['category_id']]} ({found['score']:.1%})"
        overlaps = [(_iou(found, true), true) for true in self._true.get(found["image_id"], ())]
        iou, true = max(overlaps, key=lambda pair: pair[0], default=(0.0, None))
        if iou < 0.1:
            text += ", at a place without an object"
        elif true["category_id"] != found["category_id"]:
            text += f", at an object of class {self._names[true['category_id']]}: IoU {iou:.2f}"
        else:
            text += f": IoU {iou:.2f}" + (", found twice" if iou >= 0.5 else "")
        return self._mistake(found, text)

    def _mistake(self, one: dict, text: str) -> Mistake:
        index = self._index_of[one["image_id"]]
        x, y, width, height = one["bbox"]
        try:
            image = self._dataset.pixels(index)
        except DecodeError:
            return Mistake(self._dataset.names[index], f"{text}; the image cannot be decoded", "")
        boxes = np.array([[x, y, x + width, y + height]], np.float32)
        words = [self._names[one["category_id"]]]
        figure = draw_objects(image, boxes, words, np.array([one["category_id"]]), side=SIDE)
        file = io.BytesIO()
        figure.savefig(file, format="jpeg", pil_kwargs={"quality": 80})
        return Mistake(self._dataset.names[index], text, data_url(file.getvalue()))


def _by_image(items: Iterable[dict]) -> dict[int, list[dict]]:
    found: dict[int, list[dict]] = {}
    for item in items:
        found.setdefault(item["image_id"], []).append(item)
    return found


def _iou(one: dict, two: dict) -> float:
    from pycocotools import mask

    return float(mask.iou([one["bbox"]], [two["bbox"]], [two.get("iscrowd", 0)])[0, 0])
