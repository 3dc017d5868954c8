"""Opens the dataset of `config.data` for labelled videos: the dataset that nl_jax draws itself, or videos on disk."""

from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

from nl_jax.data.dataset import ClipDataset
from nl_jax.data.embedded.long_range import LongRange
from nl_jax.data.open import open_videos
from nl_jax.errors import InputError
from nl_jax.tasks import splits
from nl_jax.training.task import SPLITS


def open_clips(config: ConfigDict, split: str, classes: tuple[str, ...] | None = None) -> ClipDataset:
    """Returns the train, validation or test split of `config.data`.

    Args:
      config: `config.data`.
      split: train, validation or test.
      classes: class names by label. By default they are the classes of the data.

    Raises:
      InputError: the name of the dataset is unknown, or the dataset cannot be opened.
    """
    fields = config.to_dict()
    name = fields.pop("name")
    if name not in SOURCES:
        raise InputError(f"data.name={name!r} is unknown; choose one of {', '.join(SOURCES)}")
    return SOURCES[name](fields, split, classes)


def measured_on(config: ConfigDict, split: str) -> str:
    """Returns the name of the examples on which figures of this split are measured: see `splits.measured_on`."""
    return splits.measured_on(config, split, "video") if config.name == "video_folder" else f"the {split} split"


def validated_on(config: ConfigDict) -> str:
    """Returns the name of the validation: see `splits.validated_on`."""
    return splits.validated_on(config, "video") if config.name == "video_folder" else "validation"


def check_test_size(config: ConfigDict, summary: Callable[[jax.ShapeDtypeStruct], object]) -> None:
    """Checks before the training that the network fits the test views. Only views below the training crop may not fit.

    Args:
      config: `config.data`.
      summary: raises InputError if the network does not fit a clip (t,h,w,3).

    Raises:
      InputError: the network does not fit a test view.
    """
    if config.name != "video_folder":
        return
    field = "test_crop" if config.test_crop else "test_short_side"  # test_crop=0 tests on whole frames
    if not 0 < (side := config[field]) < config.crop:
        return
    try:
        summary(jax.ShapeDtypeStruct((config.frames, side, side, 3), np.uint8))
    except InputError as error:
        raise InputError(f"data.{field}={side}: {error}") from error


def _long_range(fields, split, classes):
    sizes = {name: fields.pop(f"{name}_size") for name in SPLITS}
    return LongRange(split, size=sizes[split], **fields)


def _video_folder(fields, split, classes):
    paths = {name: fields.pop(name) for name in SPLITS}
    fields.pop("clips_per_decode", None)  # a field of batches, not of a dataset
    path = splits.path_of(paths, split, "a folder with one sub-folder per class, or a CSV of path,label")
    for name in ("clips", "crops"):
        validation = fields.pop(f"validation_{name}")
        if validation < 1:
            raise InputError(f"data.validation_{name}={validation} is out of range; choose 1 or more")
        if split == "validation":
            fields[f"num_{name}"] = validation
    return open_videos(path, classes=classes, **fields)


SOURCES = {"long_range": _long_range, "video_folder": _video_folder}
