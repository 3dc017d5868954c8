"""Files of published networks: fetched once, checked, kept; without a network one line says what to do."""

import dataclasses
import hashlib
import io
import tarfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from nl_jax import zoo
from nl_jax.errors import InputError
from nl_jax.zoo.cache import path_of


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NL_JAX_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def served(tmp_path):
    """A folder, whose files have addresses."""
    (tmp_path / "served").mkdir()
    return tmp_path / "served"


def entry_of(name, file, digest=None):
    return dataclasses.replace(zoo.find(name), address=file.as_uri(), digest=digest)


def test_a_file_is_fetched_once_and_checked(home, served):
    (served / "weights.pth").write_bytes(b"numbers")
    digest = hashlib.sha256(b"numbers").hexdigest()[:8]
    entry = entry_of("torchvision_resnet50_v1", served / "weights.pth", ("sha256", digest))
    path = zoo.fetch(entry)
    assert path == home / "zoo" / "torchvision_resnet50_v1" / "weights.pth" and path.read_bytes() == b"numbers"
    assert {file.name for file in path.parent.iterdir()} == {"weights.pth", ".lock"}
    (served / "weights.pth").unlink()
    assert zoo.fetch(entry) == path  # that of the cache
    path.write_bytes(b"other numbers")
    with pytest.raises(InputError, match=f"its SHA256 begins with .*, and the hash of {entry.name} with {digest}"):
        zoo.fetch(entry)


def test_a_file_is_taken_out_of_its_archive(home, served):
    with tarfile.open(served / "models.tar.gz", "w:gz") as archive:
        for name in ("models/other.pkl", "models/r50_pretrain_c2_model_iter450450_clean.pkl", "../outside"):
            info = tarfile.TarInfo(name)
            info.size = len(name)
            archive.addfile(info, io.BytesIO(name.encode()))
    entry = entry_of("release_imagenet_r50", served / "models.tar.gz")
    path = zoo.fetch(entry)
    assert path.name == entry.member and path.read_text() == f"models/{entry.member}"
    assert sorted(file.name for file in path.parent.iterdir()) == [".lock", "models.tar.gz", entry.member]
    with pytest.raises(InputError, match="holds no r101_pretrain"):
        zoo.fetch(entry_of("release_imagenet_r101", served / "models.tar.gz"))


@pytest.mark.parametrize("file", ["absent.pth", "short.pth"])
def test_without_a_network_one_line_says_what_to_fetch(file, home, served, monkeypatch):
    if file == "short.pth":
        answer = io.BytesIO(b"only this")
        answer.headers = {"Content-Length": "1000"}
        monkeypatch.setattr(urllib.request, "urlopen", lambda address, timeout: answer)
    entry = entry_of("torchvision_resnet50_v1", served / file)
    place = home / "zoo" / "torchvision_resnet50_v1" / file
    with pytest.raises(InputError) as error:
        zoo.fetch(entry)
    message = str(error.value)
    assert f"{entry.address} cannot be downloaded here" in message and "\n" not in message
    assert message.endswith(f"download that file elsewhere and put it at {place}")
    assert ("ended after 9 of 1000 bytes" in message) == (file == "short.pth")
    assert [file.name for file in place.parent.iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NL_JAX_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="cannot be made: Not a directory; set NL_JAX_HOME to a folder"):
        zoo.fetch(zoo.find("i3d_nln_r50_8x8"))
    monkeypatch.delenv("NL_JAX_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert zoo.home() == tmp_path / "cache" / "nl_jax"


def test_processes_that_start_together_fetch_a_file_once(home, served, monkeypatch):
    """The file is whole for each of them, and none of them writes into the file of another."""
    (served / "weights.pth").write_bytes(b"numbers" * 1000)
    entry, asked, fetch = entry_of("i3d_r50_8x8", served / "weights.pth"), [], urllib.request.urlopen

    def slow(*args, **options):
        asked.append(args)
        time.sleep(0.3)
        return fetch(*args, **options)

    monkeypatch.setattr(urllib.request, "urlopen", slow)
    with ThreadPoolExecutor(3) as threads:
        paths = list(threads.map(lambda _: zoo.fetch(entry), range(3)))
    assert len(asked) == 1 and {path.read_bytes() for path in paths} == {b"numbers" * 1000}


def test_a_download_that_is_interrupted_leaves_nothing(home, served, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    (served / "weights.pth").write_bytes(b"numbers")
    entry = entry_of("i3d_r50_8x8", served / "weights.pth")
    monkeypatch.setattr(urllib.request, "urlopen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        zoo.fetch(entry)
    assert [file.name for file in path_of(entry).parent.iterdir()] == [".lock"]
