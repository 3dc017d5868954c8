"""Counts of keypoints that are found, and of keypoints that are taken for another one, such as left for right."""

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from nl_jax.data.coco.keypoints import Category, category
from nl_jax.errors import require
from nl_jax.evaluation.coco import Results, evaluate

require("detection", "pycocotools")

from pycocotools import mask as rasters  # noqa: E402

# A keypoint is found at a place whose similarity with the true place (its OKS) is at least this.
FOUND = 0.5
ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class Confusions:
    """Counts of the places where the keypoints of found objects are found, by (category, keypoint).

    An object is found if the IoU of its box and the box of a detection of its category is at least one half. If there
    are several detections, the detection with the highest score counts. A keypoint of the object has a found place in
    this detection. The labelled keypoint of the object that lies nearest to the found place gets the count, if their
    similarity is at least 0.5. Otherwise "elsewhere" gets the count.

    Attributes:
      counts: maps (category, keypoint) to a Counter over the names of the keypoints at the found places.
      paired: number of keypoints whose left-right twin is labelled too. A pair is left out if the similarity of its
        two true places is 0.5 or more, because two places this near cannot be told apart.
      exchanged: number of the paired keypoints that were found nearer to the twin than to their own place.
    """

    counts: dict[tuple[str, str], Counter]
    paired: Counter
    exchanged: Counter

    def share(self, of: tuple[str, str] | None = None) -> float:
        """Returns the share of left-right exchanges of one (category, keypoint) or of all. It is nan without pairs."""
        asked, wrong = (c.total() if of is None else c[of] for c in (self.paired, self.exchanged))
        return wrong / asked if asked else float("nan")

    def commonest(self, count: int) -> list[tuple[str, str, str, int, float]]:
        """Returns the `count` most frequent mistakes as (category, keypoint, keypoint at its place, times, share)."""
        mistakes = [
            (*of, other, number, number / counter.total())
            for of, counter in self.counts.items()
            for other, number in counter.items()
            if other != of[1]
        ]
        return sorted(mistakes, key=lambda mistake: -mistake[3])[:count]


def confusions(truth: dict, detections: Results) -> Confusions:
    """Returns the counts for detections. Both arguments are in COCO's format, as for `nl_jax.evaluation.coco.evaluate`.

    Similarity is COCO's OKS for one keypoint.
    """
    categories = {one["id"]: (one["name"], category(one)) for one in truth["categories"]}
    of_place = defaultdict(list)
    for found in detections:
        if "keypoints" in found:
            of_place[found["image_id"], found["category_id"]].append(found)
    result = Confusions(defaultdict(Counter), Counter(), Counter())
    for true in truth["annotations"]:
        name, keypoints = categories[true["category_id"]]
        found = of_place[true["image_id"], true["category_id"]]
        if keypoints.names and not true["iscrowd"] and true["num_keypoints"] and found:
            overlaps = rasters.iou([one["bbox"] for one in found], [true["bbox"]], [0])[:, 0]
            over = [one for one, overlap in zip(found, overlaps, strict=True) if overlap >= 0.5]
            if over:
                _count(result, name, keypoints, true, max(over, key=lambda one: one["score"]))
    return result


def _count(result: Confusions, name: str, keypoints: Category, true: dict, found: dict) -> None:
    at, seen = (np.array(one["keypoints"], float).reshape(-1, 3) for one in (true, found))
    labelled = at[:, 2] > 0
    apart = ((seen[:, None, :2] - at[None, :, :2]) ** 2).sum(-1)  # (found, true)
    width = 2 * (true["area"] + np.spacing(1)) * (2 * np.array(keypoints.sigmas)) ** 2
    similar = np.exp(-apart / width[:, None])
    for place in np.flatnonzero(labelled).tolist():
        nearest = int(np.where(labelled, apart[place], np.inf).argmin())
        taken_for = keypoints.names[nearest] if similar[place, nearest] >= FOUND else ELSEWHERE
        result.counts[name, keypoints.names[place]][taken_for] += 1
    for pair in keypoints.flip_pairs:
        between = ((at[pair[0], :2] - at[pair[1], :2]) ** 2).sum()
        if labelled[list(pair)].all() and np.exp(-between / width[list(pair)].max()) < FOUND:
            for own, twin in (pair, pair[::-1]):
                result.paired[name, keypoints.names[own]] += 1
                result.exchanged[name, keypoints.names[own]] += int(apart[own, twin] < apart[own, own])


def ap_by_keypoint(truth: dict, detections: Results) -> dict[str, dict[str, float]]:
    """Returns the AP of every keypoint alone, by category and keypoint.

    It is nan for a keypoint that is never labelled. Both arguments are in COCO's format, as for
    `nl_jax.evaluation.coco.evaluate`.
    """
    result = {}
    for one in truth["categories"]:
        names = category(one).names
        places = range(len(names))
        result[one["name"]] = {names[place]: _ap_of(truth, detections, one, place) for place in places}
    return {name: found for name, found in result.items() if found}


def _ap_of(truth, detections, of, place):
    alone = []
    for true in truth["annotations"]:
        if true["category_id"] == of["id"]:
            points = np.array(true["keypoints"], float).reshape(-1, 3)
            points[np.arange(len(points)) != place, 2] = 0
            alone.append(true | {"keypoints": points.ravel().tolist(), "num_keypoints": int(points[place, 2] > 0)})
    if not any(true["num_keypoints"] and not true["iscrowd"] for true in alone):
        return float("nan")
    found = [one for one in detections if one["category_id"] == of["id"]]
    return evaluate(truth | {"annotations": alone, "categories": [of]}, found, "keypoints").figures["AP"]
