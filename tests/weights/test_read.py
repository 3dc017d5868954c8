"""Files are data. The error for a broken file says so, and a file that asks for code is refused."""

import json
import os
import pickle
import struct
import sys
from importlib.util import find_spec

import ml_dtypes
import numpy as np
import pytest

from nl_jax.errors import InputError
from nl_jax.weights import read

NEEDS_TORCH = pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")
READERS = [read.caffe2_pickle, pytest.param(read.torch_file, marks=NEEDS_TORCH)]


class CallsSystem:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("reader", READERS)
def test_a_hostile_pickle_is_refused_and_not_run(reader, tmp_path):
    marker = tmp_path / "was_run"
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"blobs": {"conv1_w": CallsSystem(marker)}}, protocol=2))
    with pytest.raises(InputError, match=r"asks for (posix|nt)\.system|no torch file: it is a pickle"):
        reader(path)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("module", [b"numpy.core", b"numpy._core"])
def test_pickled_arrays_and_scalars_are_read(protocol, module, tmp_path):
    arrays = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "big_endian": np.arange(3, dtype=">f4")}
    scalars = {"lr": np.float64(0.1), "model_iter": 7}
    data = pickle.dumps(arrays | scalars, protocol=protocol)
    if protocol == 2:  # protocol 2 has names in lines, whose length may change
        data = data.replace(b"numpy._core.", module + b".")
    path = tmp_path / "weights.pkl"
    path.write_bytes(data)
    found = read.caffe2_pickle(path)
    assert set(found) == {*arrays, *scalars}
    np.testing.assert_array_equal(found["x"], arrays["x"])
    np.testing.assert_array_equal(found["big_endian"], arrays["big_endian"])
    assert found["lr"] == 0.1 and found["model_iter"] == 7


@pytest.mark.parametrize("source, reader", [("caffe2", read.caffe2_pickle), ("slowfast", read.torch_file)])
@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_a_truncated_file(source, reader, kept, peers, write):
    path = write(source, peers[source].checkpoint())
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    with pytest.raises(InputError, match=f"{path} is cut off or is no"):
        reader(path)


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_of_weights(reader, tmp_path):
    path = tmp_path / "page.pth"
    with pytest.raises(InputError, match="there is no file"):
        reader(path)
    path.write_text("<html><body>Sign in to download</body></html>")
    with pytest.raises(InputError, match=r"page\.pth is cut off or is no"):
        reader(path)


def test_a_pickle_of_something_else(tmp_path):
    path = tmp_path / "list.pkl"
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(InputError, match="holds a list, not arrays by name"):
        read.caffe2_pickle(path)
    path.write_bytes(pickle.dumps({"cfg": "text"}))
    with pytest.raises(InputError, match="cfg is a str, valid are real numbers"):
        read.caffe2_pickle(path)


def write_safetensors(path, arrays):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (kind, array) in arrays.items():
        content = array.tobytes()
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_safetensors_are_read_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    arrays = {
        "fc.weight": ("F32", np.arange(6, dtype=np.float32).reshape(2, 3)),
        "fc.bias": ("BF16", np.arange(2).astype(ml_dtypes.bfloat16)),
        "bn1.num_batches_tracked": ("I64", np.array(7)),
        "mask": ("BOOL", np.array([True, False])),
        "bytes": ("U8", np.arange(3, dtype=np.uint8)),
    }
    path = tmp_path / "model.safetensors"
    write_safetensors(path, arrays)
    found = read.torch_file(path)
    for name, (_, array) in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    for kept in (0, 5, 60, -3):
        data = path.read_bytes()
        (tmp_path / "cut.safetensors").write_bytes(data[:kept])
        with pytest.raises(InputError, match=r"cut\.safetensors is cut off or is no safetensors file"):
            read.torch_file(tmp_path / "cut.safetensors")


def test_torch_is_asked_for_where_it_is_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(InputError, match="pip install torch"):
        read.torch_file(tmp_path / "weights.pth")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "model.", "module._orig_mod.model."])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda arrays: arrays,
        lambda arrays: {"state_dict": arrays, "epoch": 3},  # Lightning
        lambda arrays: {"net": arrays, "optimizer": {"state": {0: {"step": 1}}, "param_groups": []}},
        lambda arrays: {"model": {"state_dict": arrays}, "model_ema": arrays},
    ],
)
def test_arrays_are_found_in_what_training_programs_write(prefix, wrap, torch, tmp_path):
    path = tmp_path / "trained.ckpt"
    torch.save(wrap({f"{prefix}conv1.weight": torch.ones(2, 3), f"{prefix}fc.bias": torch.zeros(2)}), path)
    assert {name: array.shape for name, array in read.torch_file(path).items()} == {
        "conv1.weight": (2, 3),
        "fc.bias": (2,),
    }


@pytest.mark.parametrize(
    "content, message",
    [
        (
            lambda torch: {"net": {"a": torch.ones(1)}, "ema": {"a": torch.ones(1)}},
            r"several names, net, ema: save one",
        ),
        (lambda torch: {"a": torch.ones(1, device="meta")}, "a cannot be read as an array"),
        (lambda torch: {"a": torch.ones(2, 2).to_sparse()}, "a cannot be read as an array"),
        (lambda torch: {"a": torch.ones(1, dtype=torch.complex64)}, "a has the type complex64, valid are real numbers"),
    ],
)
def test_entries_that_are_no_plain_arrays_are_named(content, message, torch, tmp_path):
    path = tmp_path / "trained.pth"
    torch.save(content(torch), path)
    with pytest.raises(InputError, match=message):
        read.torch_file(path)


def test_a_pickle_that_is_cut_off_is_not_called_a_pickle(tmp_path):
    path = tmp_path / "cut.pkl"
    path.write_bytes(pickle.dumps({"blobs": {"a": np.zeros(50)}})[:200])
    with pytest.raises(InputError, match=r"cut\.pkl is cut off or is no pickle: pickle data was truncated"):
        read.caffe2_pickle(path)
