"""The faults that a dataset in COCO's format can have, and their messages."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

# Maps a kind of fault to its meaning, in the order of a report: the most serious kind first.
KINDS = {
    "missing": "listed, but the file does not exist",
    "unreadable": "no whole image can be decoded",
    "image size": "the image has another size than the annotations say",
    "two splits": "the same bytes as an image of another split",
    "entry": "not an object with the fields that it needs",
    "repeated id": "an id of an earlier entry",
    "repeated file": "one file under two ids",
    "unknown image": "an annotation of an image that is not listed",
    "unknown category": "an annotation of a category that is not listed",
    "box": "not a box with an area inside the image",
    "box outside": "a box that extends out of the image",
    "mask": "a mask, or a part of one, that does not parse, has no area or lies outside its box",
    "keypoints": "no keypoints, or keypoints that do not parse",
    "crowd": "an iscrowd that is not 0 or 1",
    "area": "no positive area",
    "unlisted": "an image of the folder that is in no list",
    "suffix": "a file with the suffix of another format",
    "turned": "annotations of the stored pixels, although an orientation tag turns them",
}


@dataclass(frozen=True)
class Problem:
    """One fault, described for a reader.

    Attributes:
      file: the annotation file or the image.
      where: the entry, such as "annotation 12"; "" for the whole file.
      kind: a key of `KINDS`.
      found: the value that was found.
      valid: the valid values.
      result: the treatment of the entry, such as "dropped".
    """

    file: str
    where: str
    kind: str
    found: str
    valid: str
    result: str

    def __str__(self) -> str:
        place = f"{self.file}, {self.where}" if self.where else self.file
        return f"{place}: found {self.found}, valid is {self.valid}; {self.result}"


def counted(problems: Iterable[Problem]) -> dict[str, int]:
    """Returns the number of problems of each kind, in the order of `KINDS`."""
    counts = Counter(problem.kind for problem in problems)
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


class Bad(Exception):
    """An entry of an annotation file cannot be used.

    Args:
      kind: as in `Problem`.
      found: as in `Problem`.
      valid: as in `Problem`.
    """

    def __init__(self, kind: str, found: str, valid: str):
        super().__init__(kind, found, valid)
        self.kind, self.found, self.valid = kind, found, valid


def shown(value: object) -> str:
    """Returns the value as text for a message, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
