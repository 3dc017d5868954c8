"""Reads the datasets of videos that `experiments.prepare_data` writes."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nl_jax.data.media.failure import DecodeError, Source
from nl_jax.data.video.videos import Videos
from nl_jax.errors import InputError
from nl_jax.places import local_copy, place

COLUMNS = ("path", "label", "frames", "rate", "duration", "sha256", "reason")


class PreparedVideos(Videos):
    """One split of a prepared dataset of videos.

    Args:
      path: the directory of the dataset, or a directory above it that holds only this dataset.
      split: a split of the dataset: train, validation or test.
      classes: the expected class names; None accepts any.
      options: arguments of `Videos`.

    Attributes:
      actions: for every video the label, first frame and last frame of its n actions, (n, 3) int; None for a dataset
        with one label per video.
      labels: the label of every video; -1 for a dataset of actions.

    Raises:
      InputError: there is no prepared dataset, there are several, the dataset has no split of this name, the classes
        differ from `classes`, or a number is out of range.
    """

    def __init__(self, path: str | os.PathLike, split: str, *, classes: tuple[str, ...] | None = None, **options):
        self._directory = find_prepared(path)
        builder = builder_at(self._directory)
        if split not in builder.info.splits:
            raise InputError(f"{self._directory}: has no split {split!r}, valid are {', '.join(builder.info.splits)}")
        self._split = split
        self._records = None  # each process that reads records opens them itself
        found = tuple(builder.info.metadata["classes"])
        if classes is not None and tuple(classes) != found:
            raise InputError(
                f"{self._directory}: its classes are not the requested ones; found {', '.join(found[:20])}"
            )
        rows = read_index(self._directory, split)
        self.actions = [row.actions for row in rows] if "actions" in builder.info.features else None
        self.multi_label = self.actions is not None
        self._promised = [(row.frames, row.rate) for row in rows]
        self._reasons = {index: row.reason for index, row in enumerate(rows) if row.reason}
        super().__init__(
            str(self._directory), [row.path for row in rows], [row.label for row in rows], found, **options
        )

    def _video(self, index: int) -> tuple[Source, int, float]:
        if index in self._reasons:
            raise DecodeError(self.names[index], self._reasons[index])
        if self._records is None:
            self._records = builder_at(self._directory).as_data_source(self._split)
        return self._records[index]["video"], *self._promised[index]

    def _label(self, index: int, indices: np.ndarray | None) -> np.int32 | np.ndarray:
        """Returns the label. For actions it is float32 (k,): 1 for each action in any frame of the clip's range."""
        if self.actions is None:
            return super()._label(index, indices)
        label = np.zeros(len(self.classes), np.float32)
        actions = self.actions[index]
        if indices is not None:
            actions = actions[(actions[:, 1] <= indices.max()) & (actions[:, 2] >= indices.min())]
        label[actions[:, 0]] = 1
        return label

    def _label_text(self, index: int) -> str:
        if self.actions is None:
            return super()._label_text(index)
        return _text_of(self.actions[index])

    def __getstate__(self) -> dict:
        return vars(self) | {"_records": None}


def builder_at(directory):
    """Returns the TFDS builder of the prepared dataset in a directory."""
    import tensorflow_datasets as tfds  # the import takes half a second, and only prepared datasets need it

    return tfds.builder_from_directory(directory)


def find_prepared(path: str | os.PathLike) -> Path:
    """Returns the directory of the one prepared dataset at `path` or at most three levels below.

    ArrayRecord reads only local files. So each machine makes one copy of a dataset in a bucket.

    Raises:
      InputError: there is no dataset, there are several, or the disk has no room for a copy.
    """
    path = place("data", path)
    found = [p.parent for depth in range(4) for p in sorted(path.glob("*/" * depth + "dataset_info.json"))]
    if len(found) != 1:
        names = ", ".join(map(str, found)) if found else "none"
        raise InputError(f"{path}: found {names}, valid is the directory of one dataset that prepare_data wrote")
    return local_copy(found[0])


@dataclass(frozen=True)
class Row:
    """One line of a dataset's index: the fields of one record, without the video.

    Attributes:
      path: path of the original file, relative to the source.
      label: index of the class; -1 for a dataset of actions.
      actions: (n, 3) int, label, first frame and last frame of each action.
      frames: number of frames.
      rate: mean frames per second.
      duration: in seconds.
      sha256: SHA-256 of the original file.
      reason: why there is no video; "" if there is one.
    """

    path: str
    label: int
    actions: np.ndarray
    frames: int
    rate: float
    duration: float
    sha256: str
    reason: str


def write_index(directory: Path) -> dict[str, list[Row]]:
    """Writes `videos_SPLIT.csv` of every split, with one line for each record. Returns the rows by split."""
    builder = builder_at(directory)
    rows = {}
    for split in builder.info.splits:
        rows[split] = [_row_of(record) for record in builder.as_data_source(split)]
        partial = directory / f"videos_{split}.csv.partial"
        with partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for row in rows[split]:
                label = _text_of(row.actions) if row.label < 0 else row.label
                writer.writerow((row.path, label, row.frames, row.rate, row.duration, row.sha256, row.reason))
        partial.replace(directory / f"videos_{split}.csv")
    return rows


def read_index(directory: Path, split: str) -> list[Row]:
    """Returns the rows of `videos_SPLIT.csv`. If the file is missing, it is written first."""
    file = directory / f"videos_{split}.csv"
    if not file.exists():
        return write_index(directory)[split]
    rows = []
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as text:
        for line in csv.DictReader(text):
            label, actions = -1, line["label"]
            if actions.isdecimal():
                label, actions = int(actions), ""
            rows.append(
                Row(
                    line["path"],
                    label,
                    _actions([[int(n) for n in action.split()] for action in actions.split(";") if action]),
                    int(line["frames"]),
                    float(line["rate"]),
                    float(line["duration"]),
                    line["sha256"],
                    line["reason"],
                )
            )
    return rows


def _row_of(record: dict) -> Row:
    actions = record.get("actions", {"label": [], "first": [], "last": []})
    return Row(
        os.fsdecode(record["path"]),
        int(record.get("label", -1)),
        _actions(list(zip(actions["label"], actions["first"], actions["last"], strict=True))),
        int(record["frames"]),
        float(record["rate"]),
        float(record["duration"]),
        record["sha256"].decode(),
        record["reason"].decode(),
    )


def _text_of(actions: np.ndarray) -> str:
    return ";".join(" ".join(map(str, action)) for action in actions.tolist())


def _actions(rows: list) -> np.ndarray:
    return np.array(rows, np.int64).reshape(-1, 3)
