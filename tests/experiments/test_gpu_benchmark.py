"""`python -m experiments.benchmark gpu --small` makes the measurements of a GPU on a CPU, with small sizes."""

import json
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark.gpu import SECTIONS, forms
from experiments.benchmark.gpu.networks import clips_in_batch
from experiments.benchmark.gpu.record import Record, alternate
from nl_jax.ops import devices


def test_every_section_runs(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "experiments.benchmark", "gpu", "--small", f"--out={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert {row["section"] for row in rows} == set(SECTIONS)
    assert done.stdout == (tmp_path / "gpu.txt").read_text()
    assert "FAIL" not in done.stdout and "skipped" not in done.stdout and "Error" not in done.stdout
    checked = [row["what"] for row in rows if row["section"] == "forms"]
    assert len(checked) == len(set(checked)) > 30
    ratios = {row["what"]: row["ratios"] for row in rows if "ratios" in row}
    assert set(ratios["training step, 8 frames, bfloat16"]) == {"torch", "torch compiled"}
    assert set(ratios["3x3x3 in res2"]) == {"folded", "three axes", "torch"}


def test_it_needs_no_package_of_the_other_benchmarks():
    """It also needs no package of the training programs, because a GPU machine may have few packages."""
    code = (
        "import sys; absent = 'ml_collections grain av matplotlib absl.app mmcv decord torchcodec'.split();"
        "sys.modules |= dict.fromkeys(absent);"
        "sys.orig_argv = ['python', '-m', 'experiments.benchmark', 'gpu'];"
        "import experiments.benchmark.gpu.sections; from experiments.benchmark.__main__ import main;"
        "main(['gpu', '-h'])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--sections" in done.stdout, done.stderr


def test_a_batch_fits_twice():
    """The network and its peer fit in JAX's part of 141 GB and of 80 GB. A GPU may not state its memory."""
    assert clips_in_batch({"bytes_limit": 113e9}) == {8: 128, 32: 32}
    assert clips_in_batch({"bytes_limit": 64e9}) == clips_in_batch(None) == {8: 64, 32: 16}


@pytest.mark.parametrize("name", ["gaussian", "dot_product", "concatenation"])
def test_the_references_have_the_gradients_of_their_values(name):
    """Compares the gradients with finite differences, so that the references do not depend on JAX."""
    rng = np.random.default_rng(0)
    shapes = [(1, 4), (1, 3), (1, 3, 2)] if name == "concatenation" else [(1, 4, 5), (1, 3, 5), (1, 3, 2)]
    arrays, dy = [rng.normal(size=shape) for shape in shapes], rng.normal(size=(1, 4, 2))
    options = {} if name == "dot_product" else {"valid": np.array([[True, False, True]])}
    reference = getattr(forms, f"{name}_reference")
    _, *gradients = reference(*arrays, dy, **options)
    for which, gradient in enumerate(gradients):
        for index in np.ndindex(gradient.shape):
            values = []
            for step in (1e-6, -1e-6):
                moved = [x.copy() for x in arrays]
                moved[which][index] += step
                values.append((reference(*moved, dy, **options)[0] * dy).sum())
            assert gradient[index] == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-6)


def test_a_wrong_form_fails_and_the_rest_is_still_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(forms, "_convolutions", lambda small: [])
    x = np.ones((1, 3, 4))
    cases = [
        forms.Case("wrong", lambda x: 1.1 * x, lambda x, dy: (x, dy), [x]),
        forms.Case("broken", lambda x: 1 / jnp.zeros(3) * x[0, :, 0], lambda x, dy: None, [x]),
        forms.Case("right", lambda x: 2 * x, lambda x, dy: (2 * x, 2 * dy), [x]),
    ]
    monkeypatch.setattr(forms, "_operations", lambda small: cases)
    record = Record(tmp_path, 60)
    record.section("forms", lambda: forms.check(record, True), 60, 1)
    assert record.failures == 2
    lines = capsys.readouterr().out.splitlines()
    assert ["FAIL wrong" in line for line in lines] == [False, True, False, False]
    assert "ok   right" in lines[-1]


def test_time_is_kept_to(tmp_path):
    record = Record(tmp_path, 0.5)
    ran = []
    record.section("first", lambda: (ran.append(record.left()), time.sleep(0.3)), 0.4, 0.1)
    record.section("second", lambda: ran.append("second"), 0.4, 0.3)
    record.section("third", lambda: 1 / 0, 0.4, 0.1)
    assert len(ran) == 1 and 0.3 < ran[0] <= 0.4
    text = (tmp_path / "gpu.txt").read_text()
    assert "second: skipped, 0 s are left and it needs 0" in text and "ZeroDivisionError" in text
    assert json.loads((tmp_path / "gpu.jsonl").read_text())["section"] == "third"


def test_a_second_run_adds_its_results(tmp_path):
    for name in ("forms", "memory"):
        Record(tmp_path, 60).section(name, lambda: 1 / 0, 60, 1)
    rows = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert [row["section"] for row in rows] == ["forms", "memory"]


def test_programs_take_turns():
    order = []
    found = alternate({name: lambda count, name=name: order.append((name, count)) for name in "ab"}, 2, seconds=0)
    assert order[4:] == [("a", 1), ("b", 1)] * 2 and set(found) == {"a", "b"}


def test_macs_are_counted_whatever_kernel_runs(monkeypatch):
    """The program with cuDNN's kernel has no products to count."""
    from nl_jax.models import ResNetConfig
    from nl_jax.models.summary import summarize

    config = ResNetConfig(blocks_per_stage=(1,), width=8, nonlocal_blocks={"res2": (0,)}, dtype="bfloat16")
    expected = summarize(config, (4, 32, 32)).macs
    monkeypatch.setattr(devices, "knows_cudnn", lambda: True)
    monkeypatch.setattr(jax.nn, "dot_product_attention", None)
    with devices.compiling_for("gpu", 1, (9, 0)):
        assert summarize(config, (4, 32, 32)).macs == expected
