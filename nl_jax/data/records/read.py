"""The data sets that `experiments.prepare_data` writes: records of videos, read where they are needed."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nl_jax.data.failure import DecodeError, Source
from nl_jax.data.videos import Videos
from nl_jax.errors import InputError
from nl_jax.places import local_copy, place

COLUMNS = ("path", "label", "frames", "rate", "duration", "sha256", "reason")


class PreparedVideos(Videos):
    """One split of a prepared data set.

    Args:
        path: the directory of the data set, or one above it that holds no other.
        split: of those it has: train, validation, test.
        classes: must be those of the data set where given.
        options: of `Videos`.

    Attributes:
        actions: of every video (label, first frame, last frame), (n, 3) int; None for a data set of one label each.
        labels: of every video, or for a data set of actions -1.

    Raises:
        InputError: there is no prepared data set, or several, or no such split, or a number is out of range.
    """

    def __init__(self, path: str | os.PathLike, split: str, *, classes: tuple[str, ...] | None = None, **options):
        self._directory = find_prepared(path)
        builder = builder_at(self._directory)
        if split not in builder.info.splits:
            raise InputError(f"{self._directory}: has no split {split!r}, valid are {', '.join(builder.info.splits)}")
        self._split = split
        self._records = None  # opened in the process that reads it
        found = tuple(builder.info.metadata["classes"])
        if classes is not None and tuple(classes) != found:
            raise InputError(f"{self._directory}: its classes are not those asked for, but {', '.join(found[:20])}")
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
        """For a data set of actions float32 (k,): 1 for those done in any frame from the clip's first to its last."""
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
    """TFDS's builder of the prepared data set in a directory."""
    import tensorflow_datasets as tfds  # half a second that only prepared data sets need

    return tfds.builder_from_directory(directory)


def find_prepared(path: str | os.PathLike) -> Path:
    """The one directory of a prepared data set at or below `path`, at most three levels down.

    ArrayRecord reads files of this machine, so a data set in a bucket is copied, once on every machine.

    Raises:
        InputError: there is none, or there are several, or no room for a copy.
    """
    path = place("data", path)
    found = [p.parent for depth in range(4) for p in sorted(path.glob("*/" * depth + "dataset_info.json"))]
    if len(found) != 1:
        names = ", ".join(map(str, found)) if found else "none"
        raise InputError(f"{path}: found {names}, valid is the directory of one data set that prepare_data wrote")
    return local_copy(found[0])


@dataclass(frozen=True)
class Row:
    """What the index says of one record; actions as `PreparedVideos` has them."""

    path: str
    label: int
    actions: np.ndarray
    frames: int
    rate: float
    duration: float
    sha256: str
    reason: str


def write_index(directory: Path) -> dict[str, list[Row]]:
    """Reads every record and writes `videos_SPLIT.csv` beside them, a line each, without the videos."""
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
    """The lines of `videos_SPLIT.csv`, which is written first where it is missing."""
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
