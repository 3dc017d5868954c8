import dataclasses
import itertools

import pytest

from nl_jax.models import ResNetConfig
from nl_jax.models.summary import summarize

NL5 = {50: {"res3": (1, 3), "res4": (1, 3, 5)}, 101: {"res3": (1, 3), "res4": (6, 13, 20)}}

# Parameters in M and multiply-adds in G, for clips of 32 x 224 x 224 (the paper's geometry), 8 x 224 x 224 (the
# release) and 8 x 256 x 256 (PySlowFast). The blocks pool keys before phi and g, as the formula of section 3.3 does.
# Pooling after them, as in its figure, makes phi and g cost four times as much.
COUNTS = {
    (50, None, False): (24.33, 20.44, 19.29, 25.46),
    (50, None, True): (31.69, 28.57, 27.42, 37.27),
    (50, "3x1x1", False): (28.04, 33.13, 28.11, 37.10),
    (50, "3x1x1", True): (35.40, 41.26, 36.24, 48.91),
    (101, None, False): (43.32, 35.29, 34.14, 44.85),
    (101, None, True): (50.68, 43.41, 42.27, 56.67),
    (101, "3x1x1", False): (51.75, 51.68, 46.66, 61.33),
    (101, "3x1x1", True): (59.11, 59.80, 54.79, 73.14),
}
CLIPS = {"paper": (32, 224, 224), "caffe2_8": (8, 224, 224), "slowfast": (8, 256, 256)}


def network(depth, inflate, nonlocal_, geometry="paper"):
    blocks = {"nonlocal_blocks": NL5[depth], "nonlocal_options": {"subsample": "before"}} if nonlocal_ else {}
    return ResNetConfig(depth=depth, inflate=inflate, geometry=geometry, **blocks)


@pytest.mark.parametrize("key, geometry", list(itertools.product(COUNTS, CLIPS)))
def test_published_counts(key, geometry):
    parameters, *macs = COUNTS[key]
    found = summarize(network(*key, geometry), CLIPS[geometry])
    assert found.parameters / 1e6 == pytest.approx(parameters, abs=0.01)
    assert found.macs / 1e9 == pytest.approx(macs[list(CLIPS).index(geometry)], rel=0.01)


def test_the_larger_inflation():
    found = summarize(network(101, "3x3x3", False), CLIPS["paper"])
    assert found.parameters / 1e6 == pytest.approx(63.04, abs=0.01)
    assert found.macs / 1e9 == pytest.approx(62.3, rel=0.01)


def test_ratios_of_table_2e():
    """Compares R101 with C2D in parameters and FLOPs, rounded as in the paper."""
    rows = {"C2D": (None, False), "I3D 3x3x3": ("3x3x3", False), "I3D 3x1x1": ("3x1x1", False), "NL": (None, True)}
    found = {name: summarize(network(101, *row), CLIPS["paper"]) for name, row in rows.items()}
    base = found["C2D"]
    ratios = {n: (round(s.parameters / base.parameters, 1), round(s.macs / base.macs, 1)) for n, s in found.items()}
    assert ratios == {"C2D": (1.0, 1.0), "I3D 3x3x3": (1.5, 1.8), "I3D 3x1x1": (1.2, 1.5), "NL": (1.2, 1.2)}


def test_keys_pooled_after_phi_and_g_cost_more():
    before = network(50, None, True)
    after = dataclasses.replace(before, nonlocal_options={"subsample": "after"})
    difference = summarize(after, CLIPS["paper"]).macs - summarize(before, CLIPS["paper"]).macs
    # phi and g of two blocks on 4 x 28 x 28 x 512 and three blocks on 4 x 14 x 14 x 1024, three quarters of the
    # places each.
    expected = 2 * 3 / 4 * (2 * 3136 * 512 * 256 + 3 * 784 * 1024 * 512)
    assert difference == expected


def test_layers_add_up_and_are_printed_in_order():
    found = summarize(network(50, "3x1x1", True), CLIPS["paper"])
    names = [layer.name for layer in found.layers]
    assert names[:4] == ["conv1", "pool1", "res2_0", "res2_1"] and names[-1] == "logits"
    by_name = {layer.name: layer for layer in found.layers}
    assert by_name["conv1"].macs == 16 * 112 * 112 * 64 * 5 * 7 * 7 * 3
    assert by_name["res3_1_nonlocal"].shape == (4, 28, 28, 512)
    text = str(found)
    assert [text.index(f"\n{name} ") for name in names] == sorted(text.index(f"\n{name} ") for name in names)
    assert "35,401,936" in text
    assert "res4_5_nonlocal: embedded_gaussian, spacetime, 4 x 14 x 14 positions of 1024 channels" in text
    assert "non-local blocks: none" in str(summarize(network(50, None, False), CLIPS["paper"]))
