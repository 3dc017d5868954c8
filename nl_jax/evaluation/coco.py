"""Average precision of detections, as COCO defines it and pycocotools computes it.

```python
detections = []
for index, found in ...:                     # the detections of a network in each image
    detections += results(data.annotated(index), data.category_ids, found.boxes, found.scores, found.classes,
                          scale=scale, valid=found.valid, masks=found.masks)
write_results("detections.json", detections)
truth = data.coco()
boxes, masks = evaluate(truth, detections, "bbox"), evaluate(truth, detections, "segm")
```
"""

import contextlib
import io
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from nl_jax.errors import InputError, require
from nl_jax.evaluation.paste import paste

require("detection", "pycocotools")

from pycocotools import mask as rasters  # noqa: E402
from pycocotools.coco import COCO  # noqa: E402
from pycocotools.cocoeval import COCOeval  # noqa: E402

from nl_jax.data.coco.keypoints import COCO_NAMES, default_sigmas  # noqa: E402
from nl_jax.data.coco.masks import compressed  # noqa: E402

BOX_FIGURES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
BOX_FIGURES += ("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large")
KEYPOINT_FIGURES = ("AP", "AP50", "AP75", "AP_medium", "AP_large", "AR", "AR50", "AR75", "AR_medium", "AR_large")
FIGURES = {"bbox": BOX_FIGURES, "segm": BOX_FIGURES, "keypoints": KEYPOINT_FIGURES}
Results = list[dict]


@dataclass(frozen=True)
class Scores:
    """The figures of a list of detections.

    Attributes:
      figures: figures from 0 to 1, by the names in `FIGURES`. A figure is nan for a size that no true object has. AP
        is the mean over IoU thresholds 0.5, 0.55 .. 0.95 and over categories. A small object has an area below 32^2
        pixels, and a large object has an area of 96^2 pixels or more.
      by_class: AP by name of the category. It is nan for a category without a true object. The dict is empty if
        categories do not count.
      images: number of images, with the images without detections.
    """

    figures: dict[str, float]
    by_class: dict[str, float]
    images: int


def evaluate(
    truth: dict,
    detections: Results,
    iou_type: str = "bbox",
    *,
    use_categories: bool = True,
    sigmas: Sequence[float] | None = None,
) -> Scores:
    """Scores detections with pycocotools.

    If the sigmas of the categories differ, keypoints are scored category by category. The figures are then means over
    categories, as in pycocotools. A category without keypoints does not count.

    If a detection has a box and a mask, pycocotools takes the size of the detection from its box, for masks too. This
    affects only AP_small, AP_medium and AP_large.

    Args:
      truth: the true objects in COCO's format, as `DetectionImages.coco` returns them.
      detections: detections in COCO's result format, as `results` returns them.
      iou_type: the compared parts: bbox, segm or keypoints.
      use_categories: whether categories count. If they do not count, a detection matches an object of any category,
        and the caller must first remove other detections of the same object with `without_categories`.
      sigmas: (k,), the sigma of every keypoint. The default is the sigmas of the categories, see
        `nl_jax.data.coco.keypoints`.

    Raises:
      InputError: for another `iou_type`, and for a detection in an image that the truth does not list.
    """
    if iou_type not in FIGURES:
        raise InputError(f"iou_type: found {iou_type!r}, valid are {', '.join(FIGURES)}")
    listed = {image["id"] for image in truth["images"]}
    if others := {found["image_id"] for found in detections} - listed:
        raise InputError(
            f"detections: found image_id {min(others)}, valid are the ids of the {len(listed)} scored images"
        )
    groups = _groups(truth, sigmas) if iou_type == "keypoints" else [(None, None)]
    parts = [_evaluate(truth, detections, iou_type, use_categories, *group) for group in groups]
    return parts[0] if len(parts) == 1 else _joined(parts, len(listed))


def _groups(truth: dict, sigmas: Sequence[float] | None) -> list[tuple[list[int], tuple[float, ...]]]:
    """Returns [(categories, their sigmas)]: one group if all categories have the same sigmas, or a group for each."""
    found = {}
    for category in truth["categories"]:
        names = category.get("keypoints", COCO_NAMES)
        if names:
            found[category["id"]] = tuple(category.get("sigmas", default_sigmas(names)) if sigmas is None else sigmas)
    used = {annotation["category_id"] for annotation in truth["annotations"] if "keypoints" in annotation}
    found = {number: of for number, of in found.items() if number in used} or found
    if len(set(found.values())) == 1:
        return [(list(found), next(iter(found.values())))]
    return [([number], of) for number, of in found.items()]


def _joined(parts: list[Scores], images: int) -> Scores:
    """Returns the means over the categories that have a figure."""
    figures = {}
    for name in FIGURES["keypoints"]:
        known = [part.figures[name] for part in parts if not np.isnan(part.figures[name])]
        figures[name] = float(np.mean(known)) if known else float("nan")
    return Scores(figures, {name: ap for part in parts for name, ap in part.by_class.items()}, images)


def _evaluate(truth, detections, iou_type, use_categories, categories, sigmas) -> Scores:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _evaluation(truth, detections, iou_type)
        evaluation.params.useCats = int(use_categories)
        if categories is not None:
            evaluation.params.catIds = categories
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = np.array(sigmas, np.float64)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = dict(zip(FIGURES[iou_type], map(_known, evaluation.stats), strict=True))
    by_class = {}
    if use_categories:
        names = {category["id"]: category["name"] for category in truth["categories"]}
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # all sizes, and the largest number of detections
        for place, number in enumerate(evaluation.params.catIds):
            of_class = precision[:, :, place]
            by_class[names[number]] = _known(of_class.mean() if (of_class > -1).all() else -1.0)
    return Scores(figures, by_class, len(truth["images"]))


def matches(truth: dict, detections: Results, iou: float = 0.5) -> Int[np.ndarray, "n"]:
    """Returns the id of the true object that each detection matches, or 0 if it matches none.

    The object has the class of the detection. If several detections match one object, the detection with the highest
    score counts, and the others have 0.

    Args:
      truth: the true objects in COCO's format.
      detections: n detections in COCO's result format.
      iou: smallest IoU of the boxes of a match.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _evaluation(truth, detections, "bbox")
        evaluation.params.iouThrs = np.array([iou])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, np.inf]], ["all"]
        evaluation.evaluate()
    found = np.zeros(len(detections), int)
    for of_image in filter(None, evaluation.evalImgs):
        found[np.array(of_image["dtIds"], int) - 1] = of_image["dtMatches"][0]  # pycocotools numbers detections from 1
    return found


def results(
    image,
    category_ids: Sequence[int],
    boxes: Float[np.ndarray, "d 4"],
    scores: Float[np.ndarray, "d"],
    classes: Int[np.ndarray, "d"],
    *,
    scale: Float[np.ndarray, "2"],
    valid: Bool[np.ndarray, "d"] | None = None,
    masks: Float[np.ndarray, "d m m"] | None = None,
    keypoints: Float[np.ndarray, "d k 3"] | None = None,
    keypoints_of: Sequence[np.ndarray] | None = None,
) -> Results:
    """Returns the detections in one image in COCO's result format, in pixels of the original image.

    Args:
      image: the record of the image, with `id`, `height` and `width`.
      category_ids: COCO's category id of every label.
      boxes: x0 y0 x1 y1 in pixels of the scaled image.
      scores: scores of the detections.
      classes: labels, counted from 0.
      scale: the factors of height and width from the original image to the scaled image, as in the batch.
      valid: whether each of the d detections exists. By default all exist.
      masks: probabilities in m x m cells of every box. `paste` puts them into the image.
      keypoints: x and y in pixels of the scaled image, and score. The centre of a pixel is at one half.
      keypoints_of: for every label, the indices of the keypoints that its category has. By default a category has all
        k keypoints.
    """
    y, x = np.asarray(scale, np.float64)
    original = boxes.astype(np.float64) / (x, y, x, y)
    places = np.arange(len(boxes)) if valid is None else np.flatnonzero(valid)
    found = []
    for place in places.tolist():
        x0, y0, x1, y1 = original[place]
        result = {
            "image_id": int(image.id),
            "category_id": int(category_ids[classes[place]]),
            "bbox": [round(float(value), 4) for value in (x0, y0, x1 - x0, y1 - y0)],
            "score": float(scores[place]),
        }
        if masks is not None:
            # One at a time, because 100 masks of a photograph of 24 million pixels have 2.4 GB. With whole pixels, true
            # masks that are pasted from their boxes reach AP_small 0.8. Without, they reach 1.00.
            one, shape = slice(place, place + 1), (image.height, image.width)
            result["segmentation"] = compressed(paste(masks[one], original[one], shape, whole_pixels=False)[0])
        if keypoints is not None:
            points = keypoints[place].astype(np.float64) / (x, y, 1) - np.array([0.5, 0.5, 0])
            if keypoints_of is not None:
                points = points[keypoints_of[classes[place]]]
            result["keypoints"] = [round(float(value), 4) for value in points.ravel()]
        found.append(result)
    return found


def without_categories(detections: Results, iou: float = 0.5) -> Results:
    """Returns the detections that NMS over all categories keeps.

    A network that is uncertain of a class finds one object under several classes. If classes do not count, these are
    one detection.

    Args:
      detections: detections in COCO's result format, as `results` returns them.
      iou: largest IoU of the boxes of two kept detections in one image.
    """
    of_image = defaultdict(list)
    for found in detections:
        of_image[found["image_id"]].append(found)
    kept = []
    for found in of_image.values():
        order = np.argsort([-result["score"] for result in found], kind="stable")
        boxes = np.array([found[place]["bbox"] for place in order], np.float64)
        overlaps = rasters.iou(boxes, boxes, [0] * len(boxes)) > iou
        chosen = np.zeros(len(order), bool)
        for place in range(len(order)):
            chosen[place] = not (overlaps[place, :place] & chosen[:place]).any()
        kept += [found[place] for place in order[chosen]]
    return kept


def write_results(path: str | os.PathLike, detections: Results) -> None:
    """Writes detections as JSON for pycocotools and COCO's server. The file is written whole or not at all."""
    partial = Path(f"{os.fspath(path)}.partial")
    partial.write_text(json.dumps(detections, separators=(",", ":")))
    partial.replace(path)


def _evaluation(truth: dict, detections: Results, iou_type: str) -> COCOeval:
    # Copies, because pycocotools writes into its arguments. It also cannot load an empty list.
    true = COCO()
    true.dataset = truth | {"annotations": [dict(annotation) for annotation in truth["annotations"]]}
    true.createIndex()
    found = true.loadRes([dict(result) for result in detections]) if detections else _nothing(true)
    return COCOeval(true, found, iou_type)


def _nothing(true: COCO) -> COCO:
    found = COCO()
    found.dataset = {"images": true.dataset["images"], "categories": true.dataset["categories"], "annotations": []}
    found.createIndex()
    return found


def _known(figure: float | int) -> float:
    """Returns the figure, or nan for -1. pycocotools reports -1 for a figure that does not exist."""
    return float("nan") if figure == -1 else float(figure)
