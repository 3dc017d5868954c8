"""The benchmark with tiny sizes: what it measures, writes and says when it cannot."""

import json
import warnings

import numpy as np
import pytest
from flax import nnx

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import network, op
from experiments.benchmark.measure import Program, compare, peak_bytes

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch and mmcv warn while they are imported
    import mmcv.cnn  # noqa: F401

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


def test_operations_of_the_programs_are_those_of_the_formulas():
    shapes = [(2, 12, 8), (2, 3, 8), (2, 3, 8)]
    assert op._operations("gaussian", shapes, True, False) == 2 * 2 * 12 * 3 * 16
    assert op._operations("dot_product", shapes, True, False) == 2 * 2 * 12 * 3 * 16  # the cheaper order here
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
    """The same network: as many parameters, layer by layer, whatever their order."""
    from experiments.benchmark.torch_network import I3D
    from nl_jax.models import ResNetConfig, VideoResNet, flat

    blocks = network.NONLOCAL_BLOCKS[50]
    config = ResNetConfig(width=8, inflate="3x1x1", geometry="slowfast", nonlocal_blocks=blocks)
    _, params, _ = flat.abstract(lambda: VideoResNet(config, rngs=nnx.Rngs(0)))
    theirs = [tuple(p.shape) for p in I3D(width=8, nonlocal_blocks=blocks).parameters()]
    assert sorted(int(np.prod(p.shape)) for p in params.values()) == sorted(int(np.prod(s)) for s in theirs)


def test_what_cannot_be_asked_for(capsys):
    with pytest.raises(SystemExit) as error:
        benchmark.main(["conv"])
    assert error.value.code == 2 and "invalid choice: 'conv'" in capsys.readouterr().err
