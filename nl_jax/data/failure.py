"""Why a video gives no frames, or too few, in plain words; every exception of a decoder becomes one of these."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from nl_jax.errors import InputError

Source = str | os.PathLike | bytes
"""A video: the path of a file, the path of a folder of numbered pictures, or the bytes of a file."""


class DecodeError(InputError):
    """A video that gives no frames.

    Attributes:
        path: the file; "video in memory" for bytes.
        reason: why, in plain words.
    """

    def __init__(self, path: Source, reason: str):
        path = "video in memory" if isinstance(path, bytes) else str(path)
        super().__init__(path, reason)  # both in `args`, so that it survives pickling between processes
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class ShortVideoError(DecodeError):
    """A video that ends before a frame asked for.

    Attributes:
        frames: how many frames really decode (at least 1).
    """

    def __init__(self, path: Source, frames: int):
        super().__init__(path, f"the video ends after {frames} frames")
        self.args = (self.path, frames)
        self.frames = frames


@contextmanager
def failures_of(path: Source) -> Iterator[None]:
    """Any exception inside becomes the DecodeError of this video; an InputError stays as it is.

    Decoders, demuxers and their Python bindings raise exceptions of many types on damaged files: no list of them is
    complete. One file must never end a run over many.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise DecodeError(path, words_of(error)) from error


def words_of(error: Exception) -> str:
    """The message of an exception: libav's own words where it has any, else with its type."""
    words = getattr(error, "strerror", None)
    return str(words) if words else f"{type(error).__name__}: {error}"
