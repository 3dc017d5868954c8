"""Reads Kinetics-400, -600 and -700: the CSV lists of DeepMind and CVDF for training, validation and test.

If there is no training list in CSV, it reads the JSON lists that DeepMind also distributes.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from nl_jax.data.sources.listing import Files, Item, Listing, annotation_file, number, read_table, required_file
from nl_jax.errors import InputError

# Names of the same lists in several releases.
_LISTS = {
    "train": ("train", "kinetics_train", "kinetics-*_train", "kinetics*train*"),
    "validation": ("validate", "val", "kinetics_val", "kinetics-*_val", "kinetics*val*"),
    "test": ("test", "kinetics_test", "kinetics-*_test", "kinetics*test*"),
}
_FOLDERS = {"train": ("train",), "validation": ("val", "validate", "validation"), "test": ("test",)}


def kinetics(source: Path, num_classes: int) -> Listing:
    """Returns the videos of the lists below `source`. The video files can be in any folder below `source`.

    The name of a file is `ID_START_END`, where START and END are seconds with six digits, as in all usual downloads, or
    `ID`. Classes are in alphabetical order, as usual. The test lists of Kinetics-600 and -700 have no labels and are
    left out.

    Args:
      source: folder of the dataset.
      num_classes: the number of classes that the training list must have.

    Raises:
      InputError: there is no training list, a list is not valid, the training list does not have `num_classes` classes,
        or another list has an unknown class.
    """
    train = required_file(source, *(stem + ending for ending in (".csv", ".json") for stem in _LISTS["train"]))
    rows: dict[str, list[tuple[str, str, float, float]]] = {}
    for split, stems in _LISTS.items():
        file = train if split == "train" else annotation_file(source, *(stem + train.suffix for stem in stems))
        if file is not None:
            rows[split] = list(_of_json(file) if file.suffix == ".json" else _of_csv(file, labelled=split != "test"))
    classes = tuple(sorted({label for label, *_ in rows["train"]}))
    if len(classes) != num_classes:
        raise InputError(f"{source}: the training list has {len(classes)} classes, valid is {num_classes}")
    index = {name: i for i, name in enumerate(classes)}
    files = Files(source)
    items = []
    for split, lines in rows.items():
        for label, video, start, end in sorted(lines, key=lambda line: line[1:]):
            if label not in index:
                raise InputError(f"{source}: the {split} list has the class {label!r}, and the training list does not")
            name = f"{video}_{int(start):06d}_{int(end):06d}"
            path = files.find(name, video, near=_FOLDERS[split])
            items.append(Item(name, path, split, index[label], duration=end - start))
    return Listing(tuple(items), classes, files.rest())


def _of_csv(file: Path, labelled: bool) -> Iterator[tuple[str, str, float, float]]:
    """Yields (label, YouTube's ID, start, end) of lines with a label. `labelled` requires the column label."""
    columns = ("youtube_id", "time_start", "time_end")
    for where, row in read_table(file, ("label", *columns) if labelled else columns):
        if label := row.get("label", "").strip().strip('"'):
            start, end = (number(row[column], where, column) for column in columns[1:])
            yield label, row["youtube_id"], start, end


def _of_json(file: Path) -> Iterator[tuple[str, str, float, float]]:
    """Yields the same as `_of_csv` from {ID: {"annotations": {"label": .., "segment": [start, end]}, ..}, ..}."""
    try:
        videos = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise InputError(f"{file}: not a JSON text in UTF-8 ({error})") from error
    if not isinstance(videos, dict):
        raise InputError(f"{file}: found a {type(videos).__name__}, valid is an object with a video's ID as each key")
    for video, fields in videos.items():
        try:
            annotations = fields.get("annotations", {})
            if label := annotations.get("label", "").strip():
                start, end = annotations["segment"]
                yield label, video, float(start), float(end)
        except (AttributeError, KeyError, TypeError, ValueError):
            valid = '{"annotations": {"label": .., "segment": [start, end]}}'
            raise InputError(f"{file}, video {video}: found {json.dumps(fields)[:200]}, valid is {valid}") from None
