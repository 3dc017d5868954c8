"""Files of published networks: fetched once, checked, kept; without a network one line says what to do."""

import dataclasses
import hashlib
import io
import tarfile
import urllib.request

import pytest

from nl_jax import zoo
from nl_jax.errors import InputError


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
    assert [file.name for file in path.parent.iterdir()] == ["weights.pth"]
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
    assert sorted(file.name for file in path.parent.iterdir()) == ["models.tar.gz", entry.member]
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
    assert not list(place.parent.iterdir())


def test_a_cache_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NL_JAX_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="cannot be made: Not a directory; set NL_JAX_HOME to a folder"):
        zoo.fetch(zoo.find("i3d_nln_r50_8x8"))
    monkeypatch.delenv("NL_JAX_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert zoo.home() == tmp_path / "cache" / "nl_jax"
