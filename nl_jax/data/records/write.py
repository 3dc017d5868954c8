"""TFDS builders of the datasets that `experiments.prepare_data` writes as ArrayRecord shards, without TensorFlow.

    builder = BUILDERS["kinetics400"](config=config_of("kinetics400"), data_dir=OUT)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=SOURCE))
    records = builder.as_data_source("train")

With `beam_runner` or `beam_options` in the DownloadConfig, workers of Apache Beam write the shards.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from nl_jax.data.records.make import Preparation, Record
from nl_jax.data.sources.charades import charades
from nl_jax.data.sources.kinetics import kinetics
from nl_jax.data.sources.listing import Item, Listing
from nl_jax.data.sources.own import own_videos
from nl_jax.data.sources.something import something_something_v2
from nl_jax.data.sources.splits import hmdb51, ucf101
from nl_jax.errors import InputError

VIDEOS_PER_SHARD = 256  # about 100 MB of Kinetics
SECONDS_PER_VIDEO = 600.0  # maximum time to decode a video


@dataclass(eq=False)
class VideoConfig(tfds.core.BuilderConfig):
    """The configuration of a dataset.

    Attributes:
      split: number of the official split, if the dataset has several.
      short_side: pixels of the shorter side; None keeps the size of every video.
    """

    split: int = 1
    short_side: int | None = 256


def config_of(dataset: str, *, split: int = 1, short_side: int | None = None) -> VideoConfig:
    """Returns the configuration of a dataset.

    Args:
      dataset: name of the dataset, a key of `BUILDERS`.
      split: number of the official split: 1, 2 or 3 for UCF101 and HMDB51, 1 for the others.
      short_side: pixels of the shorter side. None takes the usual value, 320 for Charades and 256 for the others. 0
        keeps the size of every video.

    Raises:
      InputError: a number is out of range.
    """
    if short_side is None:
        short_side = 320 if dataset == "charades" else 256
    if short_side < 0 or short_side == 1:
        raise InputError(f"short_side: found {short_side}, valid are integers from 2, and 0 to keep the size")
    if split != 1 and (dataset not in SPLIT_IN_THREE or split not in (2, 3)):
        raise InputError(f"split: found {split}, valid are 1, 2 and 3 for {' and '.join(SPLIT_IN_THREE)}, 1 for others")
    name = f"short{short_side}" if short_side else "original"
    if dataset in SPLIT_IN_THREE:
        name = f"split{split}_{name}"
    return VideoConfig(name=name, split=split, short_side=short_side or None)


class _Videos(tfds.core.ShardBasedBuilder, skip_registration=True):
    """A builder with one record for each video file, in the order of the listing. Missing files have no record."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "manual_dir holds the videos and their annotation files: see docs/data.md."

    url_infos: dict = {}  # noqa: RUF012 - nothing is downloaded; TFDS's default would look for a file of checksums

    list_source: Callable[[Path, int], Listing]  # (source, number of the official split)
    multi_label = False
    source: Path | None = None  # replaces manual_dir; may be a CSV
    cache: Path | None = None  # folder for finished records, see `Preparation`

    def __init__(self, **options):
        super().__init__(**{"file_format": "array_record"} | options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "video": tfds.features.Scalar(np.object_, doc="MP4 with one H.264 stream; empty if the file has no frame"),
            "path": tfds.features.Text(doc="of the original file, relative to the source"),
            "frames": np.int64,
            "rate": np.float64,  # frames per second
            "duration": np.float64,  # seconds
            "sha256": tfds.features.Text(doc="of the original file"),
            "reason": tfds.features.Text(doc="why there is no video"),
        }
        if self.multi_label:  # first and last are frame numbers
            features["actions"] = tfds.features.Sequence({"label": np.int64, "first": np.int64, "last": np.int64})
        else:
            features["label"] = tfds.features.ClassLabel()
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def preparation(self, source: Path) -> Preparation:
        return Preparation(source, self.builder_config.short_side, self.cache)

    def _shard_iterators_per_split(self, dl_manager) -> dict[str, list[Callable[[], Iterator[tuple[str, Record]]]]]:
        source = self.source or Path(dl_manager.manual_dir)
        listing = type(self).list_source(source, self.builder_config.split)
        if not self.multi_label:
            self.info.features["label"].names = listing.classes
        self.info.metadata["classes"] = list(listing.classes)
        prepare = self.preparation(root_of(source))
        return {
            split: [
                _Shard(prepare, tuple(items[start : start + VIDEOS_PER_SHARD]), self.multi_label)
                for start in range(0, len(items), VIDEOS_PER_SHARD)
            ]
            for split, items in found_by_split(listing).items()
        }


def root_of(source: Path) -> Path:
    """Returns the folder to which the paths of a listing are relative: the source, or the folder of the CSV list."""
    return source if source.is_dir() else source.parent


def found_by_split(listing: Listing) -> dict[str, list[Item]]:
    """Returns the items whose files exist, by split. Splits without items are left out."""
    found: dict[str, list[Item]] = {}
    for item in listing.items:
        if item.path is not None:
            found.setdefault(item.split, []).append(item)
    return found


@dataclass(frozen=True)
class _Shard:
    """A function that yields the examples of one shard. It can be sent to another machine."""

    prepare: Preparation
    items: tuple[Item, ...]
    multi_label: bool

    def __call__(self) -> Iterator[tuple[str, Record]]:
        if self.prepare.cache is not None:  # another process decodes, so a crash does not end Beam's worker
            left = [item for item in self.items if not self.prepare.done(item)]
            for _ in self.prepare.keep_all(left, num_workers=1, timeout=SECONDS_PER_VIDEO):
                pass
        for item in self.items:
            record = self.prepare(item)
            if not self.multi_label:
                record = {name: value for name, value in record.items() if name != "actions"} | {"label": item.label}
            yield item.path, record | {"path": os.fsencode(item.path)}


class Kinetics400(_Videos, skip_registration=True):
    """Kinetics-400: 400 actions, clips of 10 seconds (Kay et al. 2017)."""

    list_source = staticmethod(lambda source, split: kinetics(source, 400))


class Kinetics600(_Videos, skip_registration=True):
    """Kinetics-600: 600 actions (Carreira et al. 2018)."""

    list_source = staticmethod(lambda source, split: kinetics(source, 600))


class Kinetics700(_Videos, skip_registration=True):
    """Kinetics-700: 700 actions (Carreira et al. 2019), in the version of 2019 or 2020."""

    list_source = staticmethod(lambda source, split: kinetics(source, 700))


class Charades(_Videos, skip_registration=True):
    """Charades: 157 actions at home, several in a video (Sigurdsson et al. 2016)."""

    list_source = staticmethod(lambda source, split: charades(source))
    multi_label = True


class Ucf101(_Videos, skip_registration=True):
    """UCF101: 101 actions (Soomro et al. 2012)."""

    list_source = staticmethod(ucf101)


class Hmdb51(_Videos, skip_registration=True):
    """HMDB51: 51 actions (Kuehne et al. 2011)."""

    list_source = staticmethod(hmdb51)


class SomethingSomethingV2(_Videos, skip_registration=True):
    """Something-Something v2: 174 actions with objects (Goyal et al. 2017).

    A mirrored video may show another class.
    """

    list_source = staticmethod(lambda source, split: something_something_v2(source))


class OwnVideos(_Videos, skip_registration=True):
    """A user's own videos: see `nl_jax.data.sources.own`."""

    name = "video_folder"
    list_source = staticmethod(lambda source, split: own_videos(source))


SPLIT_IN_THREE = ("ucf101", "hmdb51")
BUILDERS = {
    "kinetics400": Kinetics400,
    "kinetics600": Kinetics600,
    "kinetics700": Kinetics700,
    "charades": Charades,
    "ucf101": Ucf101,
    "hmdb51": Hmdb51,
    "something_something_v2": SomethingSomethingV2,
    "video_folder": OwnVideos,
}
