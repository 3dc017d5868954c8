"""Errors for videos and images that give no frames, or too few. They replace the exceptions of decoders."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from nl_jax.errors import InputError

Source = str | os.PathLike | bytes
"""A video: the path of a file, the path of a folder of numbered pictures, or the bytes of a file."""


class DecodeError(InputError):
    """A video or an image that gives no frames.

    Attributes:
      path: path of the file; "file in memory" for bytes.
      reason: why the file gives no frames, in plain words.
    """

    def __init__(self, path: Source, reason: str):
        path = "file in memory" if isinstance(path, bytes) else str(path)
        super().__init__(path, reason)  # both in `args`, so that the error can be pickled between processes
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class ShortVideoError(DecodeError):
    """A video that ends before a requested frame.

    Attributes:
      frames: number of frames that decode (at least 1).
    """

    def __init__(self, path: Source, frames: int):
        super().__init__(path, f"the video ends after {frames} frames")
        self.args = (self.path, frames)
        self.frames = frames


@contextmanager
def failures_of(path: Source) -> Iterator[None]:
    """Turns any exception inside the context into a DecodeError of this video. An InputError stays as it is.

    Decoders, demuxers and their Python bindings raise many types of exceptions for damaged files, and no list of these
    types is complete. One damaged file must not end a run over many files.

    Raises:
      DecodeError: an exception was raised inside the context.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise DecodeError(path, words_of(error)) from error


def words_of(error: Exception) -> str:
    """Returns the message of an exception: libav's own text if there is one, else the exception's type and message."""
    words = getattr(error, "strerror", None)
    return str(words) if words else f"{type(error).__name__}: {error}"
