import time
from types import SimpleNamespace

import jax
import pytest

from nl_jax.errors import InputError
from nl_jax.training.chips import CHIPS, peak_flops
from nl_jax.training.times import Times, parse_steps


def test_times_are_means_since_they_were_taken():
    times = Times()
    began = time.perf_counter()
    for _ in range(2):
        with times.of("input"):
            time.sleep(0.01)
    passed = time.perf_counter() - began
    taken = times.take(4)
    assert 0.02 / 4 <= taken["input_seconds"] <= passed / 4 and taken["compute_seconds"] == 0
    assert times.take(1)["input_seconds"] == 0


def test_steps_to_trace():
    assert parse_steps("100:105") == (100, 105) and parse_steps(None) is None


@pytest.mark.parametrize("flag", ["100", "5:5", "a:b", "-1:3", "3:"])
def test_steps_that_cannot_be_traced(flag):
    with pytest.raises(InputError, match=rf"--profile_steps='{flag}': give FIRST:END .* such as 100:105"):
        parse_steps(flag)


def test_the_peak_is_that_of_all_devices_and_known_for_known_ones(monkeypatch):
    assert peak_flops("float32") is None  # the table has no CPUs
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")] * 8)
    assert peak_flops("bfloat16") == 8 * CHIPS["h100"].flops and peak_flops("float32") == 8 * CHIPS["h100"].flops32
