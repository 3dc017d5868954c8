"""The detections in every image of a dataset, and their figures."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Array, Bool

from nl_jax.data.coco.detection import DetectionImages
from nl_jax.data.dataset import Batch
from nl_jax.evaluation.coco import Results, Scores, evaluate, results, without_categories, write_results
from nl_jax.evaluation.keypoints import Confusions, ap_by_keypoint, confusions
from nl_jax.places import Place, write_text, written

# The compared parts, and the prefixes of their figures.
KINDS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}


@dataclass(frozen=True)
class Found:
    """The detections in n images. An image that could not be decoded has none.

    Attributes:
      detections: detections in COCO's result format, image by image in the order of the dataset.
      truth: the true objects in COCO's format.
      masks: whether detections have masks.
      failed: whether each image could not be decoded.
      list_hash: hash of the list of images and boxes. Figures with the same hash were measured on the same list.
      keypoints: whether detections have keypoints.
    """

    detections: Results
    truth: dict
    masks: bool
    failed: Bool[np.ndarray, "n"]
    list_hash: str
    keypoints: bool = False

    @cached_property
    def scores(self) -> dict[str, Scores]:
        """The scores of pycocotools by kind: box, mask and keypoint."""
        return {name: evaluate(self.truth, self.detections, kind) for kind, name in self._kinds().items()}

    def metrics(self) -> dict[str, float | int | str]:
        """Returns COCO's figures from 0 to 1 by name (box_ap, box_ap50, .., mask_ar100), and facts on the images.

        box_ap_agnostic and mask_ap_agnostic are AP if the class does not count. They measure how well the network finds
        and outlines objects that it may name wrongly. keypoint_exchanged is the share of keypoints that lie nearer to
        their left-right twin, see `nl_jax.evaluation.keypoints`. A figure for a size that no true object has is left
        out.
        """
        figures = {}
        unnamed = without_categories(self.detections)
        for kind, name in self._kinds().items():
            figures |= {f"{name}_{figure.lower()}": value for figure, value in self.scores[name].figures.items()}
            if kind == "keypoints":
                figures["keypoint_exchanged"] = self._confusions.share()
                continue
            agnostic = evaluate(self.truth, unnamed, kind, use_categories=False)
            figures[f"{name}_ap_agnostic"] = agnostic.figures["AP"]
        return {name: value for name, value in figures.items() if not np.isnan(value)} | {
            "images": len(self.failed),
            "detections": len(self.detections),
            "undecodable": int(self.failed.sum()),
            "list": self.list_hash,
        }

    def save(self, directory: Place, dataset: DetectionImages) -> Place:
        """Writes detections.json in COCO's result format, and ap_by_class.json with the AP of every class or null.

        With keypoints the method also writes keypoints_by_name.json. For every keypoint of every class, it lists the AP
        of this keypoint alone, the share of left-right exchanges, and how often each keypoint was found at its place.

        Returns:
          The path of detections.json.
        """
        by_class = {
            name: {c: None if np.isnan(ap) else ap for c, ap in found.by_class.items()}
            for name, found in self.scores.items()
        }
        write_text(directory / "ap_by_class.json", json.dumps(by_class, indent=1, ensure_ascii=False) + "\n")
        if self.keypoints:
            text = json.dumps(self._by_keypoint(), indent=1, ensure_ascii=False) + "\n"
            write_text(directory / "keypoints_by_name.json", text)
        with written(directory / "detections.json") as file:
            write_results(file, self.detections)
        return directory / "detections.json"

    def _kinds(self) -> dict[str, str]:
        there = {"bbox": True, "segm": self.masks, "keypoints": self.keypoints}
        return {kind: name for kind, name in KINDS.items() if there[kind]}

    @cached_property
    def _confusions(self) -> Confusions:
        return confusions(self.truth, self.detections)

    def _by_keypoint(self) -> list[dict]:
        found = []
        for of_class, figures in ap_by_keypoint(self.truth, self.detections).items():
            for name, ap in figures.items():
                of, share = (of_class, name), self._confusions.share((of_class, name))
                exchanged, ap = (None if np.isnan(value) else value for value in (share, ap))
                counts = dict(self._confusions.counts.get(of, {}))
                found.append(
                    {"class": of_class, "keypoint": name, "ap": ap, "exchanged": exchanged, "found_at": counts}
                )
        return found


def detect(
    dataset: DetectionImages,
    batches: Iterable[Batch],
    forward: Callable[[Batch], dict[str, Array]],
    gather: Callable[[Batch], Batch] = lambda arrays: arrays,
    together: Callable[[list], list] = lambda items: items,
    *,
    masks: bool,
    keypoints: bool = False,
) -> Found:
    """Runs every image of the dataset through the network once, and returns the detections.

    If there are several processes, each process converts the detections in its own images. Then `together` exchanges
    the detections, so that every process has all of them.

    Args:
      dataset: the images.
      batches: batches of `nl_jax.data.loader.test_batches`, with the images of this process.
      forward: a function from {"images", "sizes"} to {"boxes", "scores", "classes", "valid"}, and "masks" or
        "keypoints" if the network has them, for all images of a batch.
      gather: a function from the rows of a batch on this process to the rows on all processes.
      together: a function from the detections of this process to the detections of all processes.
      masks: whether detections have masks.
      keypoints: whether detections have keypoints.
    """
    of_category = dataset.keypoints.of_category if keypoints else None
    own, failed = [], np.zeros(len(dataset), bool)
    for batch in batches:
        found = forward({name: batch[name] for name in ("images", "sizes")})
        found = {name: np.asarray(array) for name, array in found.items()}
        facts = gather({"index": batch["index"], "valid": batch["valid"], "failed": (batch["failed"] >= 0).any(axis=1)})
        failed[facts["index"]] |= facts["failed"]
        row_of = {int(index): row for row, index in enumerate(facts["index"]) if facts["valid"][row]}
        for index, valid, scale in zip(batch["index"].tolist(), batch["valid"], batch["scale"], strict=True):
            if valid and not failed[index]:
                of_image = {name: array[row_of[index]] for name, array in found.items()}
                of_image |= {"scale": scale, "keypoints_of": of_category}
                own.append([index, results(dataset.annotated(index), dataset.category_ids, **of_image)])
    detections = [one for _, of_image in sorted(together(own)) for one in of_image]
    return Found(detections, dataset.coco(), masks, failed, dataset.list_hash(), keypoints)
