"""Opens the videos of a path: a folder, a CSV list, or a split of a prepared dataset."""

import os
from pathlib import Path

from nl_jax.data.records.read import PreparedVideos, builder_at
from nl_jax.data.video.folder import VideoFolder
from nl_jax.data.video.videos import Videos
from nl_jax.errors import InputError
from nl_jax.places import check_local, is_bucket


def open_videos(path: str | os.PathLike, **options) -> Videos:
    """Returns the videos of a path.

    Args:
      path: DIR:SPLIT of a prepared dataset, or a folder or a CSV file as in `VideoFolder`.
      options: arguments of `Videos`.

    Raises:
      InputError: as in `PreparedVideos` or `VideoFolder`, or `path` is a prepared dataset without a split.
    """
    directory, colon, split = os.fspath(path).rpartition(":")
    in_bucket = is_bucket(directory)
    if not in_bucket:
        why = "videos are read from a file system; a bucket can hold a dataset that prepare_data wrote, DIR:SPLIT"
        check_local("data", path, why)
    if in_bucket or (colon and not os.path.exists(path)):
        return PreparedVideos(directory, split, **options)
    if os.path.isdir(path) and (Path(path) / "dataset_info.json").exists():
        splits = ", ".join(builder_at(path).info.splits)
        raise InputError(f"{path}: is a prepared dataset, valid is {path}:SPLIT with one of {splits}")
    return VideoFolder(path, **options)
