"""The zoo's files on this machine. Each is fetched once, checked, and kept."""

import fcntl
import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from nl_jax.errors import InputError
from nl_jax.places import cache_directory
from nl_jax.zoo.entry import Entry

HOME = "NL_JAX_HOME"
CHUNK = 2**20


def home() -> Path:
    """Returns the folder of the cache: $NL_JAX_HOME, or the folder that `nl_jax.places.cache_directory` names."""
    if named := os.environ.get(HOME):
        return Path(named).expanduser()
    return cache_directory()


def path_of(entry: Entry) -> Path:
    """Returns the path of an entry's file, whether the file exists or not."""
    return home() / "zoo" / entry.name / entry.file


def fetch(entry: Entry) -> Path:
    """Returns the path of an entry's file. If the file is not in the cache, the function downloads it.

    A progress bar on stderr shows a download. If the hash of the file is published, the function checks it.

    Raises:
      InputError: for a cache that cannot be written to, an address that cannot be reached (the message says which file
        to put where), or a file with another hash.
    """
    path = path_of(entry)
    if not path.is_file():
        _make(path.parent)
        with _only_one(path.parent):
            archive = path.with_name(entry.address.rsplit("/", 1)[-1])
            if not path.is_file() and not archive.is_file():
                _download(entry, archive)
            if not path.is_file():
                _take_out(entry, archive, path)
    _check(entry, path)
    return path


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Lets one process at a time fetch the file. On a file system without locks several may fetch it."""
    with (folder / ".lock").open("w") as lock:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _part(path: Path) -> Iterator[Path]:
    """Yields a path of this process alone. After the block its file is at `path`, or removed if the block failed."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(None, "it cannot be written to")
    except OSError as error:
        raise InputError(
            f"the cache {folder} cannot be made: {error.strerror}; set {HOME} to a folder that can be written to"
        ) from error


def _download(entry: Entry, path: Path) -> None:
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    try:
        with (
            _part(path) as part,
            urllib.request.urlopen(entry.address, timeout=60) as answer,
            part.open("wb") as file,
            Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress,
        ):
            size = int(answer.headers.get("Content-Length") or 0)
            bar = progress.add_task(path.name, total=size or None)
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                progress.advance(bar, len(chunk))
            if size and file.tell() != size:
                raise OSError(f"the answer ended after {file.tell()} of {size} bytes")
    except (OSError, http.client.HTTPException) as error:
        raise InputError(_advice(entry, error)) from error


def _advice(entry: Entry, error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    out = f", take {entry.member} out of it" if entry.member else ""
    return (
        f"{entry.name} is not in the cache, and {entry.address} cannot be downloaded here ({reason}): "
        f"download that file elsewhere{out} and put it at {path_of(entry)}"
    )


def _take_out(entry: Entry, archive: Path, path: Path) -> None:
    """Copies the member of the archive that the entry needs. Nothing else is unpacked."""
    try:
        with tarfile.open(archive) as content:
            names = content.getnames()
            found = [name for name in names if name.rsplit("/", 1)[-1] == entry.member]
            if not found:
                raise InputError(f"{archive} holds no {entry.member}; it holds {', '.join(names[:10])}")
            with _part(path) as part, content.extractfile(found[0]) as source, part.open("wb") as target:
                shutil.copyfileobj(source, target)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{archive} cannot be unpacked ({error}): delete it and fetch it again") from error


def _check(entry: Entry, path: Path) -> None:
    if entry.digest is None:
        return
    kind, expected = entry.digest
    with path.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if not found.startswith(expected):
        raise InputError(
            f"{path}: its {kind.upper()} begins with {found[: len(expected)]}, and the hash of {entry.name} with "
            f"{expected}: delete it and fetch {entry.address} again"
        )
