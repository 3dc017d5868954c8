"""The benchmark with tiny sizes: its measurements, its files and its errors."""

import argparse
import json
import warnings

import jax
import numpy as np
import pytest
from flax import nnx

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import growth, loop, network, op
from experiments.benchmark.measure import Program, compare, peak_bytes
from nl_jax.models import ResNetConfig, VideoResNet, flat
from nl_jax.ops import devices
from nl_jax.tasks.resnet_fields import make_resnet_config
from nl_jax.training.sharding import make_mesh

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing torch and mmcv causes warnings
    pytest.importorskip("mmcv.cnn")

TINY = {
    "op": ["--positions", "64", "128", "--channels", "8"],
    "block": ["--frames", "1", "2", "--side", "4", "--channels", "8"],
    "network": ["--frames", "8", "--side", "32", "--width", "4", "--batch", "1"],
    "train_step": ["--frames", "8", "--side", "32", "--width", "4", "--batch", "2"],
    "evaluate": ["--frames", "8", "--side", "32", "--width", "4", "--batch", "1"],
}


@pytest.mark.parametrize("subject", TINY)
def test_subject(subject, tmp_path, capsys):
    benchmark.main([subject, *TINY[subject], "--repeats", "1", "--out", str(tmp_path)])
    content = json.loads((tmp_path / f"{subject}.json").read_text())
    by_case = {}
    for row in content["measurements"]:
        by_case.setdefault((row["case"], row["positions"]), []).append(row)
    assert len(by_case) == {"op": 12, "block": 10}.get(subject, 1)
    for ours, peer in by_case.values():
        assert ours["program"] == "ours" and peer["program"] != "ours"
        assert peer["ratio"] == pytest.approx(peer["seconds"] / ours["seconds"])
        assert ours["gflops"] > 0
    assert (tmp_path / f"{subject}.png").stat().st_size > 1000
    assert "ours is faster" in capsys.readouterr().out


def test_growth_is_measured_with_both_allocators(tmp_path, monkeypatch, capsys):
    command = ["growth", "--positions", "64", "--channels", "8", "--repeats", "1", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["benchmark", *command])  # the processes are started with these arguments
    benchmark.main(command)
    rows = json.loads((tmp_path / "growth.json").read_text())
    cases = {f"{f} {d}" for f in ("dot_product", "concatenation") for d in op.DIRECTIONS}
    assert {(row["case"], row["allocator"]) for row in rows} == {(c, a) for c in cases for a in growth.ALLOCATORS}
    for row in rows:
        assert row["growth"] == pytest.approx(row["seconds"][1] / row["seconds"][0])
    assert "concatenation forward+backward" in capsys.readouterr().out


def test_the_loop_is_measured_with_the_arrays_of_a_network(tmp_path, monkeypatch, capsys):
    config = loop._config(argparse.Namespace(steps=6, depth=50))
    assert _arrays(config) == 540  # the arrays of the R50 with five blocks
    config.model.update({"blocks_per_stage": (1,), "nonlocal_preset": 0, "nonlocal_blocks": {"res2": (0,)}})
    monkeypatch.setattr(loop, "_config", lambda _: config)
    monkeypatch.setattr(loop, "WARM_UP", 2)
    monkeypatch.setattr(loop, "STEP_SECONDS", 0.01)
    benchmark.main(["loop", "--steps", "6", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "loop.json").read_text())
    assert found["step_ms"] > 5 and found["alone_ms"] > 5  # no step is over before its wait
    assert found["loop_ms"] == pytest.approx(found["step_ms"] - found["input_ms"] - found["alone_ms"])
    assert found["call_ms"] > 0 and found["thread_ms"] > 0
    assert found["arrays"] == _arrays(config)
    assert f"call the compiled step with {found['arrays']:.0f} arrays" in capsys.readouterr().out.replace("\n", " ")


def _arrays(config) -> int:
    """Counts the parameters, momenta, statistics, and the counters of the state and of its schedule."""
    resnet = make_resnet_config(config.model, 5)
    _, params, batch_stats = flat.abstract(lambda: VideoResNet(resnet, rngs=nnx.Rngs(0)))
    return 2 * len(params) + len(batch_stats) + 2


@pytest.mark.parametrize("subject", ["network", "train_step"])
def test_programs_to_compile_for_a_tpu(subject):
    """Both programs lower. Ours does not hold all pairs of the positions and the pooled keys of res3."""
    parser = argparse.ArgumentParser()
    network.add_arguments(parser)
    arguments = parser.parse_args("--frames 256 --side 64 --width 2 --batch 1 --norm frozen".split())
    arguments.subject = subject
    mesh = make_mesh(data=1, fsdp=1, devices=jax.devices()[:1])
    (programs,) = network.programs(arguments).values()
    with devices.compiling_for("tpu", 1):
        ours, naive = (program(mesh).as_text() for program in programs)
    pairs = "x8192x2048xf32"  # 128 frames of 8 x 8
    assert pairs in naive and pairs not in ours


def test_operations_of_the_programs_are_those_of_the_formulas():
    shapes = [(2, 12, 8), (2, 3, 8), (2, 3, 8)]
    assert op._operations("gaussian", shapes, True, False) == 2 * 2 * 12 * 3 * 16
    assert (
        op._operations("dot_product", shapes, True, False) == 2 * 2 * 12 * 3 * 16
    )  # the cheaper order of the products
    assert op._operations("dot_product", [(1, 1200, 8), (1, 300, 8), (1, 300, 8)], True, False) == 2 * 1500 * 64


def test_memory_is_what_the_program_takes():
    taken = peak_bytes(lambda: np.ones(2**25))
    if taken is None:
        pytest.skip("the system does not tell the memory of a process")
    assert 0.9 * 2**28 < taken < 1.5 * 2**28


def test_programs_are_compared_in_turns():
    order = []
    programs = {name: Program(lambda name=name: order.append(name), 1.0) for name in ("ours", "peer")}
    compare("case", 1, programs, repeats=2)
    assert order[2:6] == ["ours", "peer"] * 2


def test_the_peer_has_our_parameters():
    """Both are the same network: their layers have the same numbers of parameters, in any order."""
    from experiments.benchmark.torch_network import I3D

    blocks = network.NONLOCAL_BLOCKS[50]
    config = ResNetConfig(width=8, inflate="3x1x1", geometry="slowfast", nonlocal_blocks=blocks)
    _, params, _ = flat.abstract(lambda: VideoResNet(config, rngs=nnx.Rngs(0)))
    theirs = [tuple(p.shape) for p in I3D(width=8, nonlocal_blocks=blocks).parameters()]
    assert sorted(int(np.prod(p.shape)) for p in params.values()) == sorted(int(np.prod(s)) for s in theirs)


def test_what_cannot_be_asked_for(capsys):
    with pytest.raises(SystemExit) as error:
        benchmark.main(["conv"])
    assert error.value.code == 2 and "invalid choice: 'conv'" in capsys.readouterr().err
