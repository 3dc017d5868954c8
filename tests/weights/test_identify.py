"""Files as users have them: trained by themselves, in another format than the name says, or broken."""

import argparse
import bz2
import gzip
import io
import pickle
import tarfile
import zipfile
from collections import defaultdict, deque

import numpy as np
import pytest
from flax import nnx

from nl_jax import weights
from nl_jax.errors import InputError
from nl_jax.models import ResNetConfig, VideoResNet
from nl_jax.weights import read
from nl_jax.weights.identify import describe, kind

CONFIG = ResNetConfig(blocks_per_stage=(1, 2, 2, 2), width=4, num_classes=5, inflate="3x1x1", geometry="mmaction2")


class HistoryBuffer:
    """A logger's object: arrays, and a function by its name."""

    def __init__(self):
        self.history, self.times, self.statistic = np.ones(3), deque([1, 2], maxlen=5), max

    def __reduce__(self):
        return HistoryBuffer, (), self.__dict__


class Options(dict):
    """A config's object: a dict of a class of its own."""


class Levels(list):
    pass


EXTRAS = {
    "mmaction2": lambda: {
        "meta": {"cfg": "text"},
        "message_hub": {"log_scalars": defaultdict(HistoryBuffer, {"loss": HistoryBuffer()})},
        "optimizer": {"param_groups": [{"lr": np.float64(0.1)}]},
    },
    "torchvision": lambda: {"args": argparse.Namespace(lr=0.1, device="cuda"), "epoch": 3, "optimizer": {}},
    "slowfast": lambda: {"cfg": Options(lr=0.1, levels=Levels([1, 2])), "set": {HistoryBuffer}},
}
WRAPPER = {"mmaction2": "state_dict", "torchvision": "model", "slowfast": "model_state"}


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("source", EXTRAS)
def test_checkpoints_that_programs_wrote_in_training(source, old_format, peers, torch, tmp_path):
    tensors = peers[source].checkpoint(**({"two_d": True} if source == "torchvision" else {}))
    path = tmp_path / "epoch_3.pth"
    content = EXTRAS[source]() | {WRAPPER[source]: tensors}
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    found = read.torch_file(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)


def test_a_logged_checkpoint_becomes_a_network(peers, torch, tmp_path, randomise):
    path = tmp_path / "epoch_3.pth"
    torch.save(EXTRAS["mmaction2"]() | {"state_dict": peers["mmaction2"].checkpoint()}, path)
    model = randomise(lambda: VideoResNet(CONFIG, rngs=nnx.Rngs(0)))
    assert not weights.load(model, path, "mmaction2").left_at_init


def test_a_whole_network_is_refused_with_the_lines_that_strip_it(torch, tmp_path):
    path = tmp_path / "model.pth"
    torch.save(HistoryBuffer(), path)
    with pytest.raises(
        InputError, match=r"object of .*HistoryBuffer.*torch\.save\(content\.state_dict\(\), NEW_FILE\)"
    ):
        read.torch_file(path)
    torch.save({"state_dict": HistoryBuffer()}, path)
    with pytest.raises(InputError, match=r"state_dict asks for .*HistoryBuffer, which arrays do not need"):
        read.torch_file(path)
    torch.save({"state_dict": {"conv1.weight": HistoryBuffer()}}, path)
    with pytest.raises(InputError, match=r"conv1\.weight asks for .*HistoryBuffer, .*nothing in it was run"):
        read.torch_file(path)


class Runs:
    """An object that calls a function with a trace, beside plain arrays."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("old_format", [False, True])
def test_nothing_that_stands_beside_the_arrays_is_run(old_format, torch, tmp_path):
    marker = tmp_path / "was_run"
    calls = [
        Runs(open, str(marker), "w"),
        Runs(eval, f"open({str(marker)!r}, 'w')"),
        Runs(exec, f"open({str(marker)!r}, 'w')"),
    ]
    path = tmp_path / "weights.pth"
    torch.save(
        {"calls": calls, "state_dict": {"x": torch.ones(2)}}, path, _use_new_zipfile_serialization=not old_format
    )
    np.testing.assert_array_equal(read.torch_file(path)["x"], [1, 1])
    assert not marker.exists()


def test_the_reader_is_chosen_by_what_the_file_is(peers, write, torch, tmp_path):
    model = nnx.eval_shape(lambda: VideoResNet(CONFIG, rngs=nnx.Rngs(0)))
    release = write("caffe2", peers["caffe2"].checkpoint()).rename(tmp_path / "weights.pyth")
    with pytest.raises(InputError, match=r"unknown to source='slowfast': .*; source='caffe2' knows some of them"):
        weights.load(model, release, "slowfast")
    for old_format in (False, True):
        path = tmp_path / "weights.pkl"
        torch.save({"model_state": peers["slowfast"].checkpoint()}, path, _use_new_zipfile_serialization=not old_format)
        with pytest.raises(InputError, match=r"unknown to source='caffe2': .*; source='slowfast' knows some of them"):
            weights.load(model, path, "caffe2")


def archive(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name in names:
            file.writestr(name, "x" * 2000)
    return data.getvalue()


def tar() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as file:
        file.addfile(tarfile.TarInfo("weights.pth"))
    return data.getvalue()


WRONG = {
    "gzip": (gzip.compress(b"x"), "a gzip archive: unpack it first"),
    "bzip2": (bz2.compress(b"x"), "a bzip2 archive"),
    "xz": (b"\xfd7zXZ\x00", "an xz archive"),
    "tar": (tar(), "a tar archive"),
    "zip": (archive("weights.pth"), "a zip archive: unpack it first"),
    "cut zip": (archive("archive/data.pkl")[:1000], "a zip archive that is cut off; torch files are zip archives"),
    "npz": (archive("x.npy"), r"an archive of NumPy arrays \(\.npz\)"),
    "torchscript": (archive("archive/data.pkl", "archive/constants.pkl"), "a TorchScript program; save its state_dict"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + b"\x00" * 100, "an HDF5 file, as Keras writes"),
    "npy": (b"\x93NUMPY\x01\x00", "one NumPy array"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x051.9.0", "an ONNX model"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    "page": (b"\n<!DOCTYPE html><html>", "a web page: the download asked"),
    "text": (b"epoch,loss\n", "it is a text"),
    "empty": (b"", "it is empty"),
}


@pytest.mark.parametrize("source", ["slowfast", "caffe2"])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_told_for_what_it_is(name, source, tmp_path, torch):
    data, message = WRONG[name]
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    model = nnx.eval_shape(lambda: VideoResNet(CONFIG, rngs=nnx.Rngs(0)))
    with pytest.raises(InputError, match=message):
        weights.load(model, path, source)


def test_a_folder_is_no_file(tmp_path, torch):
    with pytest.raises(InputError, match="is a folder, valid is a file of weights"):
        read.torch_file(tmp_path)


def test_kinds(tmp_path, write, peers):
    path = write("caffe2", peers["caffe2"].checkpoint())
    assert (kind(path), describe(path)) == (
        "pickle",
        "it is a pickle; source='caffe2' reads pickles of NumPy arrays",
    )
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps({"blobs": {}}, protocol=protocol))
        assert kind(path) == "pickle"
    assert kind(write("slowfast", peers["slowfast"].checkpoint())) == "torch"
