"""Reads the JSON lists of Something-Something v2, as 20BN and Qualcomm distribute them."""

import json
from pathlib import Path

from nl_jax.data.sources.listing import Files, Item, Listing, annotation_file, required_file
from nl_jax.errors import InputError

# The names of the files in the two distributions.
_LABELS = ("something-something-v2-labels.json", "labels.json")
_LISTS = {
    "train": ("something-something-v2-train.json", "train.json"),
    "validation": ("something-something-v2-validation.json", "validation.json"),
}


def something_something_v2(source: Path, num_classes: int = 174) -> Listing:
    """Returns the videos of the two lists with labels. A video is `ID.webm` in any folder below `source`.

    The file of labels holds {class: number}. A list holds [{"id": "78687", "template": "Holding [something]", ..}, ..].
    The class of a video is its template without the brackets. The test list has no labels and is left out.

    Args:
      source: folder of the dataset.
      num_classes: the number of classes that the file of labels must have.

    Raises:
      InputError: a file is missing, it does not have the distributed form, or it has another number of classes.
    """
    file = required_file(source, *_LABELS)
    index = _read(file, dict)
    if sorted(map(str, index.values())) != sorted(map(str, range(num_classes))):
        raise InputError(
            f"{file}: found {len(index)} classes with the numbers {', '.join(map(str, [*index.values()][:5]))} and so "
            f"on, valid are {num_classes} classes with the numbers 0 to {num_classes - 1}"
        )
    index = {name: int(number) for name, number in index.items()}
    files, items = Files(source), []
    for split, names in _LISTS.items():
        file = required_file(source, *names) if split == "train" else annotation_file(source, *names)
        if file is None:
            continue
        found = [_video(file, fields, index) for fields in _read(file, list)]
        for number, label in sorted(found, key=lambda video: int(video[0])):
            items.append(Item(number, files.find(number), split, label))
    return Listing(tuple(items), tuple(sorted(index, key=index.__getitem__)), files.rest())


def _read(file: Path, kind: type):
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise InputError(f"{file}: not a JSON text in UTF-8 ({error})") from error
    if not isinstance(found, kind):
        valid = {dict: "an object of classes and their numbers", list: "a list of videos"}[kind]
        raise InputError(f"{file}: found a {type(found).__name__}, valid is {valid}")
    return found


def _video(file: Path, fields, index: dict[str, int]) -> tuple[str, int]:
    """Returns the number of a video and the number of its class."""
    try:
        number, template = str(fields["id"]), fields["template"].replace("[", "").replace("]", "")
    except (AttributeError, KeyError, TypeError):
        number, template = "", ""
    if not number.isdecimal() or not template:
        valid = '{"id": NUMBER, "template": CLASS, ..}'
        raise InputError(f"{file}: found the video {json.dumps(fields)[:200]}, valid is {valid}")
    if template not in index:
        raise InputError(f"{file}, video {number}: found the class {template!r}, which the list of classes has not")
    return number, index[template]
