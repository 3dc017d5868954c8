"""The kind of a file, by its first bytes and not by its name. It chooses the reader and explains an error."""

import json
import zipfile
from pathlib import Path

# The first bytes of archives and of other programs' formats, each with a message for the user.
_MAGIC = (
    (b"\x1f\x8b", "it is a gzip archive: unpack it first (gunzip, or tar xf)"),
    (b"BZh", "it is a bzip2 archive: unpack it first"),
    (b"\xfd7zXZ\x00", "it is an xz archive: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "it is a zstd archive: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "it is a 7z archive: unpack it first"),
    (b"Rar!", "it is a RAR archive: unpack it first"),
    (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file, as Keras writes; no source here reads these"),
    (b"\x93NUMPY", "it is one NumPy array (.npy), without the names of a network"),
    (b"version https://git-lfs", "it is a Git LFS pointer, not the file itself: run git lfs pull"),
    (b"%PDF", "it is a PDF"),
    (b"TFL3", "it is a TensorFlow Lite model; no source here reads these"),
)
# The start of pickles that torch wrote until version 1.6: its magic number, as a long of ten bytes.
_OLD_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_TAR = slice(257, 262)


def kind(path: Path) -> str:
    """Returns "torch", "safetensors" or "pickle" for a file that can be read, and "other" for any other file."""
    start = _start(path)
    if start.startswith(b"PK"):
        return "torch" if any(name.endswith("/data.pkl") for name in _names_in_zip(path)) else "other"
    if _OLD_TORCH in start[:32]:
        return "torch"
    if _is_safetensors(start, path):
        return "safetensors"
    # Protocol 2 and later begin with this byte. Protocols 0 and 1, which Python 2 wrote, begin with a dict.
    return "pickle" if start[:1] == b"\x80" or start[:2] in (b"}q", b"(d") else "other"


def describe(path: Path) -> str:
    """Returns a sentence with the kind of a file that cannot be read, and the remedy. It is "" for an unknown kind."""
    start = _start(path)
    if not start:
        return "it is empty"
    for magic, words in _MAGIC:
        if start.startswith(magic):
            return words
    if start.startswith(b"PK"):
        return _describe_zip(path)
    if start[_TAR] == b"ustar":
        return "it is a tar archive: unpack it first (tar xf)"
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page: the download asked for a log-in or a confirmation"
    if b"onnx" in start[:64] or b"pytorch" in start[:64]:
        return "it is an ONNX model; no source here reads these"
    if kind(path) == "pickle":
        return "it is a pickle; source='caffe2' reads pickles of NumPy arrays"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start[:256]):
        return "it is a text file"
    return ""


def _describe_zip(path: Path) -> str:
    names = _names_in_zip(path)
    if not names:
        return "it is a zip archive that is cut off; torch files are zip archives"
    if any(name.endswith("constants.pkl") for name in names):
        return "it is a TorchScript program; save its state_dict() instead"
    if all(name.endswith(".npy") for name in names):
        return "it is an archive of NumPy arrays (.npz); no source here reads these"
    if any(name.endswith("/data.pkl") for name in names):
        return ""
    return "it is a zip archive: unpack it first"


def _names_in_zip(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return []


def _is_safetensors(start: bytes, path: Path) -> bool:
    """Returns whether the file begins with a length and a JSON object of this length."""
    length = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{" or length > path.stat().st_size:
        return False
    try:
        with path.open("rb") as file:
            file.seek(8)
            return isinstance(json.loads(file.read(length)), dict)
    except ValueError:
        return False


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)
