"""A video as a folder of numbered pictures, `VIDEO/img_00001.jpg`: frame i is the picture of the i-th number."""

import os
import re

from nl_jax.data.failure import DecodeError, Source

IMAGE_SUFFIXES = frozenset(".bmp .jpeg .jpg .png .tif .tiff .webp".split())
_NUMBERED = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)


def picture_files(names: list[str]) -> list[str]:
    """The pictures among the names of a folder's files, by number, if they are the frames of one video, else none.

    They are frames if there are two or more and their names differ in one number alone. Hidden files do not count.
    """
    pictures = [name for name in names if is_picture(name)]
    matches = [_NUMBERED.fullmatch(name) for name in pictures]
    if len(pictures) < 2 or None in matches or len({(match[1], match[3]) for match in matches}) > 1:
        return []
    numbers = {int(match[2]): name for match, name in zip(matches, pictures, strict=True)}
    return [numbers[number] for number in sorted(numbers)] if len(numbers) == len(pictures) else []


def is_picture(name: str) -> bool:
    """Whether a file is a picture, by its ending, and is not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_folder(path: Source) -> bool:
    """Whether a video is a folder, and so one of pictures."""
    return not isinstance(path, bytes) and os.path.isdir(path)


def frames_of_folder(path: Source) -> list[str]:
    """The paths of the pictures of a video that is a folder, in order; raises DecodeError if it is none."""
    names = os.listdir(path)  # with links to nothing: a frame that is missing must not go unseen
    files = picture_files([name for name in names if not os.path.isdir(os.path.join(path, name))])
    if not files:
        raise DecodeError(path, "the folder holds no pictures whose names differ in one number, such as img_00001.jpg")
    return [os.path.join(path, name) for name in files]


def files_of(path: Source) -> list[str]:
    """The files that a video consists of."""
    return frames_of_folder(path) if is_folder(path) else [os.fspath(path)]
