"""The block on real data: the held-out examples, the networks' parameters, and a run of a few steps."""

import gzip
import importlib.util
import json
import struct

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments import real_data
from nl_jax.errors import InputError


def write_idx(path, values):
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


@pytest.fixture
def digits(tmp_path):
    """scikit-learn's digits in the format of Fashion-MNIST: 300 for training and 100 for testing."""
    found = load_digits()
    for part, chosen in (("train", slice(300)), ("t10k", slice(300, 400))):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", found.images[chosen])
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", found.target[chosen])
    return tmp_path


def test_the_control_has_the_parameters_of_the_block():
    for shape in ((4, 64, 6), (4, 8, 8, 1)):
        data = np.zeros(shape, np.float32), np.arange(4), np.arange(4)
        plain, block, control = (real_data.parameters(kind, data) for kind in real_data.NETWORKS)
        assert 0.95 < (control - plain) / (block - plain) < 1.15


def test_the_official_test_part_of_the_images_is_held_out(digits):
    images, labels, folds = real_data.fashion(digits)
    found = load_digits()
    np.testing.assert_array_equal(images[..., 0], found.images[:400])
    np.testing.assert_array_equal(labels, found.target[:400])
    np.testing.assert_array_equal(folds, [-1] * 300 + [0] * 100)
    with jax.numpy_dtype_promotion("standard"):  # Optax promotes types
        held_out = [indices for _, indices, _ in real_data.right_by_fold("plain", (images, labels, folds), 1, 1)]
    np.testing.assert_array_equal(np.concatenate(held_out), np.arange(300, 400))


def test_a_few_steps_learn_images(digits, capsys, monkeypatch):
    monkeypatch.setattr(real_data, "NETWORKS", ("plain", "non_local"))
    monkeypatch.setattr(real_data, "EVALUATED", 64)  # two parts of different size
    with jax.numpy_dtype_promotion("standard"):
        real_data.main(["fashion", "--seeds=1", "--steps=40", f"--data_dir={digits}", f"--out={digits}"])
    found = json.loads((digits / "real_data_fashion.json").read_text())
    assert found["samples"] == 100 and found["networks"]["non_local"]["accuracy"] > 30  # chance is 10
    assert "| non_local |" in capsys.readouterr().out


@pytest.mark.skipif(importlib.util.find_spec("seglearn") is None, reason="needs the extra real_data")
def test_no_person_is_in_two_folds_of_the_watch():
    windows, labels, folds = real_data.watch()
    assert windows.shape[1:] == (64, 6) and set(labels) == set(range(7)) and set(folds) == set(range(5))
    assert len(windows) == len(labels) == len(folds) > 1000


def test_data_that_is_not_there_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for arguments, message in (
        (["watch"], 'pip install -e ".[real_data]"'),
        (["fashion", f"--data_dir={tmp_path}"], "apt install dataset-fashion-mnist, or give"),
    ):
        with pytest.raises(SystemExit) as ended:
            real_data.main(arguments)
        assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_damaged_file_is_named(digits):
    labels = digits / "t10k-labels-idx1-ubyte.gz"
    whole = labels.read_bytes()
    for content, message in (
        (whole[:-20], "not a complete gzip file"),
        (b"labels", "not a complete gzip file"),
        (whole[:20] + bytes(8) + whole[28:], "not a complete gzip file"),
        (gzip.compress(gzip.decompress(whole)[:-3]), r"has 97 bytes of values; its header .* needs 100"),
        (gzip.compress(b"\0\0\x0d\x01" + bytes(8)), "begins with 00000d01; valid is 00000801"),
    ):
        labels.write_bytes(content)
        with pytest.raises(InputError, match=message):
            real_data.fashion(digits)
    write_idx(labels, np.zeros(99))
    with pytest.raises(InputError, match="t10k has 100 images and 99 labels; the two numbers must be equal"):
        real_data.fashion(digits)
