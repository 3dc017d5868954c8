"""Stores data sets in COCO's format as ArrayRecord shards: the files of the images, and one annotation file per split.

    builder = Coco(config=config_of("instances"), data_dir=OUT)
    builder.splits = find_splits(SOURCE)
    builder.download_and_prepare()
    write_annotations(Path(builder.data_path), builder.splits, "instances")
    data = PreparedCoco(OUT, "train2017", training=True)

With `beam_runner` in the DownloadConfig each shard is written by a worker of Apache Beam.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from nl_jax.data.coco.annotations import Annotations, Image, read_annotations
from nl_jax.data.coco.detection import truth_of
from nl_jax.data.coco.folder import CocoImages
from nl_jax.data.coco.source import KINDS
from nl_jax.data.decode import DecodeError, Source
from nl_jax.data.records.read import builder_at, find_prepared
from nl_jax.errors import InputError

IMAGES_PER_SHARD = 1024  # some 160 MB of COCO


@dataclass(eq=False)
class CocoConfig(tfds.core.BuilderConfig):
    """The kind of annotations: `name` is instances or person_keypoints."""


def config_of(kind: str) -> CocoConfig:
    """Returns the configuration for a kind of annotations. Raises InputError for an unknown kind."""
    if kind not in KINDS:
        raise InputError(f"annotations: found {kind!r}, valid are {' and '.join(KINDS)}")
    return CocoConfig(name=kind)


class Coco(tfds.core.ShardBasedBuilder, skip_registration=True):
    """A builder that writes one record for each usable image, in the order of the annotation file."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The images and annotation files are read where they lie: see docs/detection.md."
    url_infos: dict = {}  # noqa: RUF012 - nothing is downloaded; the default looks for checksums beside this file

    splits: dict[str, tuple[Path, Path]]  # as `find_splits` returns them

    def __init__(self, **options):
        super().__init__(**{"file_format": "array_record"} | options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Scalar(np.object_, doc="the file as it is; empty if there is none"),
            "image_id": np.int64,
            "path": tfds.features.Text(doc="of the original file, relative to the folder of its split"),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager) -> dict[str, list[Callable[[], Iterator[tuple[int, dict]]]]]:
        shards = {}
        for split, (folder, file) in self.splits.items():
            annotations = read_kind(file, self.builder_config.name)
            files = [(image.id, image.file_name) for image in annotations.images]
            self.info.metadata["classes"] = list(annotations.names)
            shards[split] = [
                _Shard(folder, tuple(files[start : start + IMAGES_PER_SHARD]))
                for start in range(0, len(files), IMAGES_PER_SHARD)
            ]
        return shards


@dataclass(frozen=True)
class _Shard:
    """A function that yields the records of one shard. It can be sent to another machine."""

    folder: Path
    files: tuple[tuple[int, str], ...]

    def __call__(self) -> Iterator[tuple[int, dict]]:
        for number, name in self.files:
            path = self.folder / name
            data = path.read_bytes() if path.is_file() else b""
            yield number, {"image": data, "image_id": number, "path": os.fsencode(name)}


def read_kind(file: Path, kind: str) -> Annotations:
    """Returns the usable part of an annotation file of this kind."""
    keypoints = kind == "person_keypoints"
    return read_annotations(file, masks=not keypoints, keypoints=keypoints)


def write_annotations(directory: Path, splits: dict[str, tuple[Path, Path]], kind: str) -> dict[str, Annotations]:
    """Writes the usable part of each annotation file as `annotations_SPLIT.json` beside the records, and returns it."""
    written = {}
    for split, (_, file) in splits.items():
        written[split] = found = read_kind(file, kind)
        content = truth_of(found.images, found.names, found.category_ids, found.keypoints)
        partial = directory / f"annotations_{split}.json.partial"
        partial.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
        partial.replace(directory / f"annotations_{split}.json")
    return written


class PreparedCoco(CocoImages):
    """One split of a prepared data set.

    Args:
        directory: the directory of the data set, or a directory above it that holds no other data set.
        split: the name of a split.
        options: the other arguments of `CocoImages`.

    Raises:
        InputError: as `CocoImages`; or there is no prepared data set, or more than one, or it has no such split.
    """

    def __init__(self, directory: str | os.PathLike, split: str, **options):
        self._directory, self._split, self._records = find_prepared(directory), split, None
        file = self._directory / f"annotations_{split}.json"
        if not file.exists():
            known = sorted(
                path.stem.removeprefix("annotations_") for path in self._directory.glob("annotations_*.json")
            )
            raise InputError(f"{directory}: has no split {split!r}, valid are {', '.join(known)}")
        super().__init__(os.fspath(directory), file, **options)
        self._places = {number: place for place, number in enumerate(self.listed)}  # the places of their records

    def source(self, image: Image) -> Source:
        """Returns the bytes of an image. Raises DecodeError if the file was missing."""
        if self._records is None:  # opened in the process that reads it
            self._records = builder_at(self._directory).as_data_source(self._split)
        record = self._records[self._places[image.id]]
        if not record["image"]:
            raise DecodeError(image.file_name, "there was no such file when the data set was prepared")
        return record["image"]

    def __getstate__(self) -> dict:
        return vars(self) | {"_records": None}
