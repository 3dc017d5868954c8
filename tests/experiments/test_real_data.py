"""The block on real data: what is held out, what the networks have, and a run of a few steps."""

import importlib.util
import json

import jax
import numpy as np
import pytest

from experiments import real_data


def test_the_control_has_the_parameters_of_the_block():
    for shape in ((4, 64, 6), (4, 8, 8, 1)):
        data = np.zeros(shape, np.float32), np.arange(4), np.arange(4)
        plain, block, control = (real_data.parameters(kind, data) for kind in real_data.NETWORKS)
        assert 0.95 < (control - plain) / (block - plain) < 1.15


def test_a_few_steps_learn_digits_and_every_image_is_held_out_once(tmp_path, capsys, monkeypatch):
    images, labels, folds = real_data.digits()
    few = images[:200], labels[:200], folds[:200]
    monkeypatch.setitem(real_data.DATA, "digits", lambda: few)
    monkeypatch.setattr(real_data, "NETWORKS", ("plain", "non_local"))
    with jax.numpy_dtype_promotion("standard"):
        held_out = [indices for _, indices, _ in real_data.right_by_fold("plain", few, 1, 1)]
    assert sorted(np.concatenate(held_out)) == list(range(200))
    with jax.numpy_dtype_promotion("standard"):  # Optax promotes
        real_data.main(["digits", "--seeds=1", "--steps=40", f"--out={tmp_path}"])
    found = json.loads((tmp_path / "real_data_digits.json").read_text())["networks"]
    assert found["non_local"]["accuracy"] > 30 and "| non_local |" in capsys.readouterr().out  # chance is 10


@pytest.mark.skipif(importlib.util.find_spec("seglearn") is None, reason="needs the extra real_data")
def test_no_person_is_in_two_folds_of_the_watch():
    windows, labels, folds = real_data.watch()
    assert windows.shape[1:] == (64, 6) and set(labels) == set(range(7)) and set(folds) == set(range(5))
    assert len(windows) == len(labels) == len(folds) > 1000


def test_data_that_is_not_there_is_named(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        real_data.main(["watch"])
    assert ended.value.code == 2 and "pip install -e .[real_data]" in capsys.readouterr().err
