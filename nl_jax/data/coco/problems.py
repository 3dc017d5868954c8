"""The faults that a data set in COCO's format can have, and the words for them."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

# From each kind of fault to its meaning. The gravest kind comes first, as in a report.
KINDS = {
    "missing": "listed, and there is no such file",
    "unreadable": "no whole image can be decoded",
    "image size": "the image has another size than the annotations say",
    "two splits": "the same bytes as an image of another split",
    "entry": "not an object with the fields that it needs",
    "repeated id": "an id that an earlier entry has",
    "repeated file": "one file under two ids",
    "unknown image": "an annotation of an image that is not listed",
    "unknown category": "an annotation of a category that is not listed",
    "box": "not a box with an area inside the image",
    "box outside": "a box that reaches out of the image",
    "mask": "a mask, or a part of one, that does not parse, has no area or lies outside its box",
    "keypoints": "keypoints that do not parse",
    "crowd": "no iscrowd of 0 or 1",
    "area": "no positive area",
    "unlisted": "an image in the folder, and in no list",
    "suffix": "a file of another format than its name says",
    "turned": "annotations on the stored pixels, which an orientation tag turns",
}


@dataclass(frozen=True)
class Problem:
    """One fault, in words for a person.

    Attributes:
        file: the annotation file or the image.
        where: the entry, such as "annotation 12"; "" for the whole file.
        kind: one of `KINDS`.
        found: the value in the file.
        valid: the values that are allowed.
        result: the consequence, such as "dropped".
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
    """An entry cannot be used: kind, found and valid as in `Problem`."""

    def __init__(self, kind: str, found: str, valid: str):
        super().__init__(kind, found, valid)
        self.kind, self.found, self.valid = kind, found, valid


def shown(value: object) -> str:
    """Returns the text of a value for a message. A long text is cut."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
