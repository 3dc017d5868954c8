"""Recognizes files of still images, and their formats, by the endings of their names and by their first bytes."""

import io
import os

from PIL.TiffImagePlugin import ImageFileDirectory_v2

FORMATS = {
    ".bmp": "BMP",
    ".gif": "GIF",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WebP",
}
IMAGE_SUFFIXES = frozenset(FORMATS) - {".gif"}  # a GIF may be a video
_BEGINNINGS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_TIFF_COMPRESSION, _JPEG = 259, (6, 7)  # the number of the tag, and its values for JPEG


def is_picture(name: str) -> bool:
    """Returns whether a name has the ending of a still image (GIF does not count) and is not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_image(file: str | os.PathLike | bytes) -> bool:
    """Returns whether the path of a file has the ending of an image, or the bytes of a file begin like an image."""
    if isinstance(file, bytes):
        return format_of(file) is not None
    return os.path.splitext(file)[1].lower() in FORMATS


def format_of(data: bytes) -> str | None:
    """Returns the image format of a file by its first bytes: one of the values of `FORMATS`; None for other files."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    return next((name for beginning, name in _BEGINNINGS.items() if data.startswith(beginning)), None)


def is_jpeg_in_tiff(file: str | os.PathLike | bytes) -> bool:
    """Returns whether the first image in a TIFF file is compressed as JPEG.

    Args:
      file: path or bytes of the file. If its header cannot be read, the result is False.
    """
    with io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb") as opened:
        try:
            tags = ImageFileDirectory_v2(opened.read(8))
            opened.seek(tags.next)
            tags.load(opened)
            return tags.get(_TIFF_COMPRESSION) in _JPEG
        except Exception:  # a damaged header has no list of errors
            return False
