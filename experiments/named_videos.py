"""Finds the videos that the arguments of a program name: files, folders, patterns and cameras."""

import glob
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from nl_jax.data.media.image_files import is_picture
from nl_jax.data.media.picture_folder import picture_files
from nl_jax.data.sources.folder import find_videos
from nl_jax.data.video.stream import is_stream
from nl_jax.errors import InputError
from nl_jax.places import check_local


def named_videos(arguments: list[str], *, stills: bool = False) -> Iterator[tuple[str, str, str]]:
    """Yields (path, name relative to the argument, "") for every video.

    For an argument without a video it yields (argument, argument, reason). It prints to stderr how many pictures of a
    folder are left out.

    Args:
      arguments: files, folders, patterns or cameras.
      stills: whether every picture of a folder is a video of one frame, as for a network whose clips have one frame.
        Otherwise numbered pictures are the frames of one video.
    """
    for argument in arguments:
        if is_stream(argument) or os.path.isfile(argument):
            yield argument, os.path.basename(argument) or argument, ""
            continue
        if os.path.isdir(argument):
            found, others = _videos_in(Path(argument), stills)
            names = [os.path.relpath(file, argument) for file in found]
            names = [os.path.basename(os.path.abspath(argument)) if name == "." else name for name in names]
            problem = "the folder has no images and no videos" if stills else "the folder has no videos"
            if pictures := sum(is_picture(file.name) for file in others):
                print(
                    f"{argument}: {pictures} pictures in this folder are left out; only its videos are read",
                    file=sys.stderr,
                )
        else:
            found = sorted(file for file in glob.glob(argument, recursive=True) if not os.path.isdir(file))
            names = [os.path.basename(file) for file in found]
            problem = _why_missing(argument)
        yield from ((file, name, "") for file, name in zip(found, names, strict=True))
        if not found:
            yield argument, argument, problem


def _why_missing(argument: str) -> str:
    try:
        check_local("VIDEO", argument, "videos are read from a file system")
    except InputError as error:
        return str(error)
    return "no file matches the pattern" if glob.has_magic(argument) else "there is no such file or folder"


def _videos_in(folder: Path, stills: bool) -> tuple[list[str], list[Path]]:
    """Returns the videos of a folder, and its other files. A folder of numbered pictures is itself one video."""
    if not stills and (frames := picture_files(os.listdir(folder))):
        print(f"{folder}: its {len(frames)} numbered pictures are read as the frames of one video", file=sys.stderr)
        return [str(folder)], []
    found, others = find_videos(folder, stills=stills)
    return [str(folder / name) for name in found], others
