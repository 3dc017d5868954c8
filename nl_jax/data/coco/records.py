"""Datasets in COCO's format as ArrayRecord shards of the original image files, with one annotation file for each split.

    builder = Coco(config=config_of("instances"), data_dir=OUT)
    builder.splits = find_splits(SOURCE)
    builder.download_and_prepare()
    write_annotations(Path(builder.data_path), builder.splits, "instances")
    data = PreparedCoco(OUT, "train2017", training=True)

With `beam_runner` in the DownloadConfig, workers of Apache Beam write the shards.
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
from nl_jax.data.media.failure import DecodeError, Source
from nl_jax.data.records.read import builder_at, find_prepared
from nl_jax.errors import InputError

IMAGES_PER_SHARD = 1024  # about 160 MB of COCO


@dataclass(eq=False)
class CocoConfig(tfds.core.BuilderConfig):
    """The kind of annotations: `name` is instances or person_keypoints."""


def config_of(kind: str) -> CocoConfig:
    """Returns the configuration for annotations of a kind.

    Raises:
      InputError: the kind is unknown.
    """
    if kind not in KINDS:
        raise InputError(f"annotations: found {kind!r}, valid are {' and '.join(KINDS)}")
    return CocoConfig(name=kind)


class Coco(tfds.core.ShardBasedBuilder, skip_registration=True):
    """A builder with one record for each usable image, in the order of the annotation file."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The images and annotation files are read where they lie: see docs/detection.md."
    url_infos: dict = {}  # noqa: RUF012 - nothing is downloaded; TFDS's default would look for a file of checksums

    splits: dict[str, tuple[Path, Path]]  # {split: (folder of images, annotation file)}, as `find_splits` returns it

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
            data = path.read_bytes() if os.path.isfile(path) else b""
            yield number, {"image": data, "image_id": number, "path": os.fsencode(name)}


def read_kind(file: Path, kind: str, masks: bool = True) -> Annotations:
    """Returns the usable entries of an annotation file of this kind.

    Args:
      file: the annotation file.
      kind: instances or person_keypoints.
      masks: whether every annotation of instances must have a mask.

    Raises:
      InputError: as in `read_annotations`.
    """
    keypoints = kind == "person_keypoints"
    return read_annotations(file, masks=masks and not keypoints, keypoints=keypoints)


def write_annotations(
    directory: Path, splits: dict[str, tuple[Path, Path]], kind: str, *, masks: bool = True
) -> dict[str, Annotations]:
    """Writes the usable entries of each annotation file to `annotations_SPLIT.json`, next to the records.

    Args:
      directory: folder of the records.
      splits: {split: (folder of images, annotation file)}, as `find_splits` returns it.
      kind: instances or person_keypoints.
      masks: as in `read_kind`.

    Returns:
      the usable entries, by split.

    Raises:
      InputError: as in `read_annotations`.
    """
    written = {}
    for split, (_, file) in splits.items():
        written[split] = found = read_kind(file, kind, masks)
        content = truth_of(found.images, found.names, found.category_ids, found.keypoints)
        partial = directory / f"annotations_{split}.json.partial"
        partial.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
        partial.replace(directory / f"annotations_{split}.json")
    return written


class PreparedCoco(CocoImages):
    """One split of a prepared dataset in COCO's format.

    Args:
      directory: the directory of the dataset, or a directory above it that holds only this dataset.
      split: a split of the dataset.
      options: arguments of `CocoImages`.

    Raises:
      InputError: as in `CocoImages`, or there is no prepared dataset, there are several, or the dataset has no split of
        this name.
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
        self._places = {number: place for place, number in enumerate(self.listed)}  # index of the record of each image

    def source(self, image: Image) -> Source:
        """Returns the bytes of an image. Raises DecodeError if its file was missing."""
        if self._records is None:  # each process that reads records opens them itself
            self._records = builder_at(self._directory).as_data_source(self._split)
        record = self._records[self._places[image.id]]
        if not record["image"]:
            raise DecodeError(image.file_name, "the file did not exist when the dataset was prepared")
        return record["image"]

    def __getstate__(self) -> dict:
        return vars(self) | {"_records": None}
