"""The keypoints of the categories of an annotation file: any names and any number, of people, hands or animals.

Besides COCO's `keypoints` and `skeleton`, a category can have these fields:

- `flip_pairs`: pairs of keypoints that a mirror exchanges, as numbers from 1 like the skeleton. By default the names
  give the pairs: left_x and right_x, L_x and R_x.
- `sigmas`: one number for each keypoint, the standard deviation of its position between annotators
  (https://cocodataset.org/#keypoints-eval). By default a keypoint with one of COCO's 17 names has COCO's sigma, and
  every other keypoint has DEFAULT_SIGMA.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nl_jax.data.coco.fields import is_number, texts
from nl_jax.data.coco.problems import Bad, shown
from nl_jax.errors import InputError

COCO_SIGMAS = {
    "nose": 0.026,
    "eye": 0.025,
    "ear": 0.035,
    "shoulder": 0.079,
    "elbow": 0.072,
    "wrist": 0.062,
    "hip": 0.107,
    "knee": 0.087,
    "ankle": 0.089,
}
COCO_NAMES = ("nose", *(f"{side}_{part}" for part in list(COCO_SIGMAS)[1:] for side in ("left", "right")))
COCO_SKELETON = ((16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9))
COCO_SKELETON += ((8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7))
DEFAULT_SIGMA = 0.05
Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Category:
    """The keypoints of one category, in the order of the file. A category can have no keypoints.

    Attributes:
      names: names of the keypoints.
      skeleton: pairs of keypoints that a line joins, as indices from 0.
      flip_pairs: pairs of keypoints that a mirror exchanges, as indices from 0.
      sigmas: COCO's sigma of each keypoint.
    """

    names: tuple[str, ...] = ()
    skeleton: Pairs = ()
    flip_pairs: Pairs = ()
    sigmas: tuple[float, ...] = ()

    def entry(self) -> dict:
        """Returns the keypoint fields of the category's entry in an annotation file."""
        if not self.names:
            return {}
        pairs = {"skeleton": self.skeleton, "flip_pairs": self.flip_pairs}
        numbered = {name: [[a + 1, b + 1] for a, b in found] for name, found in pairs.items()}
        return {"keypoints": list(self.names)} | numbered | {"sigmas": list(self.sigmas)}


class Keypoints:
    """The k keypoints of all categories. Keypoints with the same name are one keypoint.

    Args:
      categories: the keypoints of each category, by label.

    Attributes:
      categories: the argument.
      names: (k,), names in the order of the categories.
      of_category: for each label, the indices of the category's keypoints among the k.
      flip_order: (k,), keypoint i of a mirrored image is keypoint `flip_order[i]` of the image.

    Raises:
      InputError: a mirror exchanges a keypoint with different keypoints in different categories.
    """

    def __init__(self, categories: Sequence[Category]):
        self.categories = tuple(categories)
        self.names = tuple(dict.fromkeys(name for category in categories for name in category.names))
        places = {name: place for place, name in enumerate(self.names)}
        self.of_category = tuple(np.array([places[n] for n in category.names], int) for category in categories)
        twins = {}
        for category in categories:
            changed = {a: b for pair in category.flip_pairs for a, b in (pair, pair[::-1])}
            for place, name in enumerate(category.names):
                twin = category.names[changed.get(place, place)]
                if twins.setdefault(name, twin) != twin:
                    raise InputError(
                        f"flip_pairs: a mirror exchanges the keypoint {name!r} with {twins[name]!r} in one category "
                        f"and with {twin!r} in another; give it another name in each"
                    )
        self.flip_order = np.array([places[twins[name]] for name in self.names], int)

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keypoints) and self.categories == other.categories

    def without_sigma(self) -> list[str]:
        """Returns the names of keypoints that have DEFAULT_SIGMA, because neither the file nor COCO gives a sigma."""
        found = {
            name
            for one in self.categories
            for name, sigma in zip(one.names, one.sigmas, strict=True)
            if sigma == DEFAULT_SIGMA and name not in COCO_NAMES
        }
        return [name for name in self.names if name in found]

    def skeleton(self, label: int) -> list[tuple[int, int]]:
        """Returns the lines of a category's skeleton, as pairs of indices among the k keypoints."""
        places = self.of_category[label].tolist()
        return [(places[a], places[b]) for a, b in self.categories[label].skeleton]


def of_coco(labels: int) -> Keypoints:
    """Returns COCO's 17 keypoints of a person, for each of `labels` categories."""
    return Keypoints([category({"keypoints": list(COCO_NAMES), "skeleton": [list(p) for p in COCO_SKELETON]})] * labels)


def category(record: dict) -> Category:
    """Returns the keypoints of a category's entry in an annotation file.

    Raises:
      Bad: a field is not valid.
    """
    if "keypoints" not in record or record["keypoints"] == []:
        return Category()
    names = texts(record, "keypoints")
    if len(set(names)) < len(names):
        raise Bad("keypoints", f"keypoints {shown(list(names))}", "a unique name for each")
    pairs = _pairs(record, "flip_pairs", len(names)) if "flip_pairs" in record else pairs_by_name(names)
    flat = [place for pair in pairs for place in pair]
    if len(set(flat)) < len(flat):
        raise Bad("keypoints", f"flip_pairs {shown(record['flip_pairs'])}", "every keypoint in at most one pair")
    sigmas = record.get("sigmas", default_sigmas(names))
    if not (isinstance(sigmas, list | tuple) and len(sigmas) == len(names) and all(map(_is_sigma, sigmas))):
        raise Bad("keypoints", f"sigmas {shown(sigmas)}", f"{len(names)} numbers above 0, one for each keypoint")
    return Category(names, _pairs(record, "skeleton", len(names)), pairs, tuple(map(float, sigmas)))


def default_sigmas(names: Sequence[str]) -> list[float]:
    """Returns a sigma for each name: its own for a name of COCO, DEFAULT_SIGMA for any other name."""
    return [COCO_SIGMAS[name.split("_")[-1]] if name in COCO_NAMES else DEFAULT_SIGMA for name in names]


def pairs_by_name(names: Sequence[str]) -> Pairs:
    """Returns the pairs of keypoints whose names differ only in left and right, or in L_ and R_ at the start."""
    places = {name: place for place, name in enumerate(names)}
    pairs = ((place, places[twin]) for name, place in places.items() if (twin := _twin(name)) in places)
    return tuple((a, b) for a, b in pairs if a < b)


OTHER = {"left": "right", "Left": "Right", "LEFT": "RIGHT"}
OTHER |= {right: left for left, right in OTHER.items()}


def _twin(name: str) -> str | None:
    swapped = re.sub("|".join(OTHER), lambda found: OTHER[found[0]], name)
    if swapped != name:
        return swapped
    sides = {"L_": "R_", "R_": "L_", "l_": "r_", "r_": "l_"}
    return sides[name[:2]] + name[2:] if name[:2] in sides else None


def _pairs(record: dict, key: str, count: int) -> Pairs:
    pairs = record.get(key) or []
    valid = f"{key}: pairs of different numbers from 1 to {count}"
    if not isinstance(pairs, list):
        raise Bad("keypoints", f"{key} {shown(pairs)}", valid)
    for pair in pairs:
        numbers = isinstance(pair, list) and len(pair) == 2 and all(type(number) is int for number in pair)
        if not numbers or not 1 <= min(pair) < max(pair) <= count:
            raise Bad("keypoints", f"{key} {shown(pair)}", valid)
    return tuple((a - 1, b - 1) for a, b in pairs)


def _is_sigma(value: object) -> bool:
    return is_number(value) and value > 0
