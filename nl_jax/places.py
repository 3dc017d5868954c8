"""Paths on a file system or in a bucket of Google (gs://) or Amazon (s3://), with one interface for both.

A path on a file system is a `pathlib.Path`. A path in a bucket is an `etils.epath.Path`, which has the same methods.
This module adds the operations that a bucket lacks: appending to a file, replacing a file as a whole, and writing with
a library that only knows files.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nl_jax.errors import InputError, require

require("train", "etils", "fsspec")  # etils[epath] brings both

from etils import epath  # noqa: E402

Place = Path | epath.Path

# Maps a scheme to the package that reads its buckets. The extra of pyproject.toml has the name of the scheme.
PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}
# Matches gs://bucket/run, and gs:/bucket/run, into which pathlib changes it.
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.IGNORECASE | re.DOTALL)


def is_bucket(path: str | os.PathLike) -> bool:
    """Returns whether `path` is an address in a bucket."""
    match = _ADDRESS.fullmatch(os.fspath(path))
    return match is not None and match[1].lower() in PACKAGES


def check_local(name: str, path: str | os.PathLike, why: str = "files are read and written on a file system") -> None:
    """Refuses an address. Without this check a program would create a local folder with the address as its name.

    Args:
      name: name of the flag, field or argument that holds `path`.
      path: path to check.
      why: reason why an address is not valid here.

    Raises:
      InputError: `path` is an address.
    """
    if match := _ADDRESS.fullmatch(os.fspath(path)):
        raise InputError(
            f"{name}={os.fspath(path)} is an address ({match[1]}:), and {why}; mount the bucket (gcsfuse, "
            "mountpoint-s3) or copy it, and give that folder"
        )


def place(name: str, path: str | os.PathLike) -> Place:
    """Returns the path of a file or folder. The file or folder need not exist.

    Args:
      name: name of the flag, field or argument that holds `path`, for error messages.
      path: path of a file system, or address in a bucket.

    Raises:
      InputError: `path` is an address but not one of a bucket, or the bucket cannot be reached.
    """
    if not is_bucket(path):
        check_local(name, path, "only gs://, s3:// and paths of a file system are valid")
        return Path(path)
    scheme, below = _ADDRESS.fullmatch(os.fspath(path)).groups()
    require(scheme.lower(), PACKAGES[scheme.lower()])
    import fsspec

    for protocol in ("gs", "gcs", "s3"):  # TensorStore also writes, and fsspec's cached lists would miss its files
        fsspec.config.conf.setdefault(protocol, {})["use_listings_cache"] = False
    found = epath.Path(f"{scheme.lower()}://{below.rstrip('/')}")
    with _reached(f"{name}={found}"):
        # The client must ask the server about a file. About the bucket alone it may answer by itself. It is a client of
        # its own, because a kept one would fail again after the user gave the credentials that it did not find.
        client, file = fsspec.core.url_to_fs(f"{found}/config.json", skip_instance_cache=True)
        client.exists(file)
    return found


@contextmanager
def _reached(what: str) -> Iterator[None]:
    """Turns any exception of a bucket's client into an InputError. These exceptions share no base class."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join([type(error).__name__, *str(error).splitlines()[:1]])
        raise InputError(f"{what} cannot be reached or written: {reason}") from error


def absolute(path: Place) -> Place:
    """Returns the path from the root of its file system or bucket."""
    return path if is_bucket(path) else path.resolve()


def make_directory(path: Place) -> None:
    """Makes a directory. In a bucket, which has no empty folders, it only checks that a file can be written.

    Raises:
      InputError: the directory cannot be made, or nothing can be written to it.
    """
    if is_bucket(path):
        trial = path / f".{uuid.uuid4().hex}"  # several processes may do this at the same time
        with _reached(f"the directory {path}"):
            trial.write_bytes(b"")
            trial.unlink()
        return
    check_local("directory", path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the directory {path} cannot be made: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(f"the directory {path} cannot be written to")


def remove(path: Place) -> None:
    """Removes a folder with everything in it, or a file of a bucket. Does nothing if `path` does not exist."""
    if is_bucket(path):
        path.rmtree(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def read_text(path: Place) -> str:
    """Reads a text file in UTF-8. Bytes that are not UTF-8 (as in names of files) are kept as surrogate escapes."""
    return path.read_bytes().decode("utf-8", errors="surrogateescape")


def write_text(path: Place, text: str, errors: str = "surrogateescape") -> None:
    """Writes a text file as a whole. A run that is killed here leaves the old file unchanged.

    Args:
      path: path of the file.
      text: whole content of the file. It is written in UTF-8.
      errors: handling of characters that UTF-8 lacks, as `str.encode` takes it. The default restores the bytes that
        `read_text` kept.
    """
    data = text.encode("utf-8", errors=errors)
    if is_bucket(path):  # in a bucket a file appears only when it is complete
        path.write_bytes(data)
        return
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)


class Growing:
    """A text file to which text is added. Each `write` is in the file when it returns.

    A file in a bucket cannot grow, so each `write` uploads the whole file again.

    Args:
      path: path of the file.
      text: new content of the file. None keeps the content that the file has.
    """

    def __init__(self, path: Place, text: str | None = None):
        self._path, self._text = path, text or ""
        if text is not None:
            write_text(path, text)
        elif is_bucket(path) and path.exists():
            self._text = read_text(path)

    def write(self, text: str) -> None:
        """Adds the text at the end."""
        if is_bucket(self._path):
            self._text += text
            write_text(self._path, self._text)
            return
        with self._path.open("ab") as file:
            file.write(text.encode("utf-8", errors="surrogateescape"))


@contextmanager
def written(path: Place) -> Iterator[Path]:
    """Yields a local path to which a library writes a file or a folder. After the block the result is at `path`."""
    if not is_bucket(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield (local := Path(folder) / path.name)
        send(local, path)


def send(local: Path, path: Place) -> None:
    """Copies a file, or all files of a folder, into a bucket.

    It copies dataset_info.json last, because a reader takes a folder for a dataset only if that file is there.
    """
    file_system, root = _file_system(path)
    if local.is_file():
        file_system.put_file(str(local), root)
        return
    files = sorted(file for file in local.rglob("*") if file.is_file())
    for file in sorted(files, key=lambda file: file.name == "dataset_info.json"):
        file_system.put_file(str(file), f"{root}/{file.relative_to(local).as_posix()}")


def local_copy(directory: Place) -> Path:
    """Returns a local folder with the files of `directory`.

    A folder of a file system is returned itself. A folder in a bucket is copied, once on each machine.

    Raises:
      InputError: the disk has no room for the copy.
    """
    if not is_bucket(directory):
        return directory
    file_system, root = _file_system(directory)
    files = {name: file for name, file in file_system.find(root, detail=True).items() if not name.endswith("/")}
    # Every content has its own copy. The etag of a file in a bucket identifies its content.
    content = [(name, file["size"], str(file.get("etag", file.get("ETag")))) for name, file in files.items()]
    copy = (
        cache_directory() / "copies" / hashlib.sha256(json.dumps([str(directory), content]).encode()).hexdigest()[:32]
    )
    copy.mkdir(parents=True, exist_ok=True)
    with (copy / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # only one process on a machine copies
        missing = {name: copy / name[len(root) :].lstrip("/") for name in files}
        missing = {name: file for name, file in missing.items() if not file.exists()}
        needed, free = sum(files[name]["size"] for name in missing), shutil.disk_usage(copy).free
        if needed > free:
            raise InputError(
                f"{directory} is copied to {copy}, which takes {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are "
                "free; make room, or set the environment variable XDG_CACHE_HOME to a folder of another disk"
            )
        for name, file in missing.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
            file_system.get_file(name, str(partial))
            partial.replace(file)
    return copy


def _file_system(path: Place):
    """Returns the client of a bucket, and the path in the client's form."""
    import fsspec

    return fsspec.core.url_to_fs(os.fspath(path))


def cache_directory() -> Path:
    """Returns the folder for a user's files that can be made again.

    It lies in XDG_CACHE_HOME if that is set, else in ~/.cache, or in /tmp for a user who has no home to write to.
    """
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "nl_jax"
    try:
        home = Path.home()
    except RuntimeError:
        home = None
    if home is None or not os.access(home, os.W_OK):
        return Path(tempfile.gettempdir()) / f"cache_of_{os.getuid()}" / "nl_jax"
    return home / ".cache" / "nl_jax"
