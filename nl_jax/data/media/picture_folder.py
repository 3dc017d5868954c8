"""Reads a video that is a folder of numbered pictures, `VIDEO/img_00001.jpg`.

Frame i is the picture with the i-th number.
"""

import os
import re

from nl_jax.data.media.failure import DecodeError, Source
from nl_jax.data.media.image_files import is_picture

_NUMBERED = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)


def picture_files(names: list[str]) -> list[str]:
    """Returns the names of the pictures in a folder, sorted by number, if they are the frames of one video.

    They are frames if there are two or more pictures and their names differ only in one number. Otherwise the result is
    empty. Hidden files do not count.

    Args:
      names: names of all files in the folder.
    """
    pictures = [name for name in names if is_picture(name)]
    matches = [_NUMBERED.fullmatch(name) for name in pictures]
    if len(pictures) < 2 or None in matches or len({(match[1], match[3]) for match in matches}) > 1:
        return []
    numbers = {int(match[2]): name for match, name in zip(matches, pictures, strict=True)}
    return [numbers[number] for number in sorted(numbers)] if len(numbers) == len(pictures) else []


def is_folder(path: Source) -> bool:
    """Returns whether a video is a folder of pictures."""
    return not isinstance(path, bytes) and os.path.isdir(path)


def frames_of_folder(path: Source) -> list[str]:
    """Returns the paths of a folder's pictures, in order.

    Raises:
      DecodeError: the pictures are not the frames of one video.
    """
    names = os.listdir(path)  # with broken links: a missing frame must cause an error later
    files = picture_files([name for name in names if not os.path.isdir(os.path.join(path, name))])
    if not files:
        raise DecodeError(path, "the folder holds no pictures whose names differ in one number, such as img_00001.jpg")
    return [os.path.join(path, name) for name in files]


def files_of(path: Source) -> list[str]:
    """Returns the paths of the files of a video. Raises DecodeError as `frames_of_folder` does."""
    return frames_of_folder(path) if is_folder(path) else [os.fspath(path)]
