"""Where files lie: on a file system, or in a bucket of Google (gs://) or Amazon (s3://), read and written alike.

A file system has `pathlib.Path`. A bucket has `etils.epath.Path`, which has the same methods. What a bucket cannot do
is done here: to add to a file, to rename a file into its place, and to be written by a library that knows files only.
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

# The package that reads a bucket; the extra of pyproject.toml has the name of the scheme.
PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}
# gs://bucket/run, and gs:/bucket/run, which pathlib makes of it.
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.IGNORECASE | re.DOTALL)


def is_bucket(path: str | os.PathLike) -> bool:
    """Whether it is an address in a bucket."""
    match = _ADDRESS.fullmatch(os.fspath(path))
    return match is not None and match[1].lower() in PACKAGES


def check_local(name: str, path: str | os.PathLike, why: str = "files are read and written on a file system") -> None:
    """Raises InputError for any address, which would become a local folder of that name.

    Args:
      name: of the flag, field or argument that has it.
      why: no address can be there.
    """
    if match := _ADDRESS.fullmatch(os.fspath(path)):
        raise InputError(
            f"{name}={os.fspath(path)} is an address ({match[1]}:), and {why}; mount the bucket (gcsfuse, "
            "mountpoint-s3) or copy it, and give that folder"
        )


def place(name: str, path: str | os.PathLike) -> Place:
    """The path of a file or folder, which need not exist.

    Args:
      name: of the flag, field or argument that has it, for messages.

    Raises:
      InputError: for an address that is no bucket's, or a bucket that cannot be reached.
    """
    if not is_bucket(path):
        check_local(name, path, "only gs://, s3:// and paths of a file system can be there")
        return Path(path)
    scheme, below = _ADDRESS.fullmatch(os.fspath(path)).groups()
    require(scheme.lower(), PACKAGES[scheme.lower()])
    import fsspec

    for protocol in ("gs", "gcs", "s3"):  # TensorStore writes too, and what it writes is in no list kept here
        fsspec.config.conf.setdefault(protocol, {})["use_listings_cache"] = False
    found = epath.Path(f"{scheme.lower()}://{below.rstrip('/')}")
    with _reached(f"{name}={found}"):
        (found / "config.json").exists()  # asked of a bucket alone, a client may answer without asking the server
    return found


@contextmanager
def _reached(what: str) -> Iterator[None]:
    """Turns what a client of a bucket may raise into one line. There is no common class of these errors."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join([type(error).__name__, *str(error).splitlines()[:1]])
        raise InputError(f"{what} cannot be reached or written: {reason}") from error


def absolute(path: Place) -> Place:
    """The path from the root of its file system or bucket."""
    return path if is_bucket(path) else path.resolve()


def make_directory(path: Place) -> None:
    """Raises InputError where it cannot be made, or nothing can be written there. A bucket has no empty folders."""
    if is_bucket(path):
        trial = path / f".{uuid.uuid4().hex}"  # several processes may ask at once
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
    """A file or a whole folder, where it exists."""
    if is_bucket(path):
        path.rmtree(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def read_text(path: Place) -> str:
    """Names of files need not be UTF-8: what is not in them is kept as it is."""
    return path.read_bytes().decode("utf-8", errors="surrogateescape")


def write_text(path: Place, text: str, errors: str = "surrogateescape") -> None:
    """Whole or not at all: a run that is killed here leaves what was there before."""
    data = text.encode("utf-8", errors=errors)
    if is_bucket(path):  # where a file appears when it is whole
        path.write_bytes(data)
        return
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)


class Growing:
    """A text file that begins with `text`, or goes on where it is None; each `write` is there when it returns.

    A file in a bucket cannot grow, so each `write` puts all of it there again.
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
    """Where a library that knows files only writes a file or a folder, which then is at `path`."""
    if not is_bucket(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield (local := Path(folder) / path.name)
        send(local, path)


def send(local: Path, path: Place) -> None:
    """Copies a file, or all files of a folder, into a bucket. A data set is one when its dataset_info.json is there."""
    file_system, root = _file_system(path)
    if local.is_file():
        file_system.put_file(str(local), root)
        return
    files = sorted(file for file in local.rglob("*") if file.is_file())
    for file in sorted(files, key=lambda file: file.name == "dataset_info.json"):
        file_system.put_file(str(file), f"{root}/{file.relative_to(local).as_posix()}")


def local_copy(directory: Place) -> Path:
    """A folder to read at any place: itself, or of a folder in a bucket its copy, which is made once on every machine.

    Raises:
      InputError: where there is no room for it.
    """
    if not is_bucket(directory):
        return directory
    file_system, root = _file_system(directory)
    files = {name: file for name, file in file_system.find(root, detail=True).items() if not name.endswith("/")}
    # Another copy for other content: a bucket names the content of every file by its etag.
    content = [(name, file["size"], str(file.get("etag", file.get("ETag")))) for name, file in files.items()]
    copy = (
        cache_directory() / "copies" / hashlib.sha256(json.dumps([str(directory), content]).encode()).hexdigest()[:32]
    )
    copy.mkdir(parents=True, exist_ok=True)
    with (copy / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes on a machine one copies
        missing = {name: copy / name[len(root) :].lstrip("/") for name in files}
        missing = {name: file for name, file in missing.items() if not file.exists()}
        needed, free = sum(files[name]["size"] for name in missing), shutil.disk_usage(copy).free
        if needed > free:
            raise InputError(
                f"{directory} is copied to {copy}, which takes {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are "
                "free; make room, or name another disk by the environment variable XDG_CACHE_HOME"
            )
        for name, file in missing.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
            file_system.get_file(name, str(partial))
            partial.replace(file)
    return copy


def _file_system(path: Place):
    """The client of a bucket, and the path as it wants it."""
    import fsspec

    return fsspec.core.url_to_fs(os.fspath(path))


def cache_directory() -> Path:
    """Where what can be made again is kept for a user: XDG_CACHE_HOME, ~/.cache, or of one without a home /tmp."""
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "nl_jax"
    try:
        home = Path.home()
    except RuntimeError:
        home = None
    if home is None or not os.access(home, os.W_OK):
        return Path(tempfile.gettempdir()) / f"cache_of_{os.getuid()}" / "nl_jax"
    return home / ".cache" / "nl_jax"
