"""Our networks as PySlowFast files: complete, strict, and unchanged when they are imported again."""

import dataclasses
import json

import numpy as np
import pytest
from flax import nnx

from nl_jax import weights
from nl_jax.errors import InputError
from nl_jax.models import ResNetConfig, VideoResNet, flat
from nl_jax.weights import own, read

FIVE = {"res3": (1, 3), "res4": (1, 3, 5)}
CONFIG = ResNetConfig(
    width=4, inflate="3x1x1", geometry="slowfast", num_classes=5, nonlocal_blocks=FIVE, dropout=0.0, head_window=7
)


def load_file(torch, path):
    return torch.load(path, weights_only=True)["model_state"]


def test_an_exported_network_is_complete_and_comes_back_equal(tmp_path, peers, randomise, torch):
    model = randomise(lambda: VideoResNet(CONFIG, rngs=nnx.Rngs(0)))
    text = weights.save(model, tmp_path / "new" / "model.pyth")
    assert "NONLOCAL.LOCATION [[[]], [[1, 3]], [[1, 3, 5]], [[]]]" in text and "RESNET.DEPTH 50" in text
    assert "MODEL.ARCH i3d" in text and "NONLOCAL.INSTANTIATION softmax" in text and "expect" not in text
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.pyth"]

    # PySlowFast's strict loading compares every name and every shape.
    found = load_file(torch, tmp_path / "new" / "model.pyth")
    expected = peers["slowfast"].checkpoint(50, nonlocal_at={1: (1, 3), 2: (1, 3, 5)})
    assert {name: value.shape for name, value in found.items()} == {name: v.shape for name, v in expected.items()}
    assert {name: value.dtype for name, value in found.items()} == {name: v.dtype for name, v in expected.items()}

    back = randomise(lambda: VideoResNet(CONFIG, rngs=nnx.Rngs(0)), seed=1)
    assert not weights.load(back, tmp_path / "new" / "model.pyth", "slowfast").left_at_init
    for ours, theirs in zip(flat.split(model)[1:], flat.split(back)[1:], strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_what_pyslowfast_has_and_ours_has_not_is_neutral(tmp_path, peers, randomise, torch):
    config = dataclasses.replace(CONFIG, norm="affine", geometry="mmaction2", inflate=None)
    config = dataclasses.replace(config, nonlocal_options={"norm": "none"}, nonlocal_blocks={"res3": (1,)})
    model = randomise(lambda: VideoResNet(config, rngs=nnx.Rngs(0)))
    text = weights.save(model, tmp_path / "model.pyth")
    assert "trained with mmaction2: expect other figures" in text
    assert "res3_1_nonlocal: PySlowFast cannot compute subsample='after', scale=1" in text
    found = load_file(torch, tmp_path / "model.pyth")
    expected = peers["slowfast"].checkpoint(50, i3d=False, nonlocal_at={1: (1,)})
    assert {name: value.shape for name, value in found.items()} == {name: v.shape for name, v in expected.items()}
    assert not found["s3.pathway0_nonlocal1.conv_out.bias"].any()
    var = found["s3.pathway0_nonlocal1.bn.running_var"].numpy()
    np.testing.assert_array_equal(found["s3.pathway0_nonlocal1.bn.weight"].numpy() / np.sqrt(var + 1e-5), 1)
    assert not found["s1.pathway0_stem.bn.running_mean"].any()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"blocks_per_stage": (1, 2)}, "PySlowFast has the blocks of R50 and R101"),
        ({"inflate": "3x3x3"}, "3x3x3"),
        ({"geometry": "small"}, "another conv1"),
        ({"nonlocal_options": {"pairwise": "gaussian"}}, "res3_1_nonlocal is gaussian"),
        ({"nonlocal_options": {"pairwise": "concatenation"}}, "res3_1_nonlocal is concatenation"),
        ({"nonlocal_options": {"axes": "space"}}, "res3_1_nonlocal sums over space"),
        ({"nonlocal_options": {"inner_channels": 2}}, "2 inner channels and not 16"),
    ],
)
def test_a_network_that_pyslowfast_cannot_build(changes, message, tmp_path):
    config = dataclasses.replace(CONFIG, nonlocal_blocks={"res3": (1,)}, **changes)
    model = nnx.eval_shape(lambda: VideoResNet(config, rngs=nnx.Rngs(0)))
    with pytest.raises(InputError, match=f"PySlowFast cannot build this network: .*{message}"):
        weights.save(model, tmp_path / "model.pyth")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes", [{"blocks_per_stage": (1, 2), "geometry": "small"}, {"inflate": "3x3x3"}])
def test_any_network_is_written_by_its_own_names(changes, tmp_path, randomise):
    config = dataclasses.replace(CONFIG, **{"blocks_per_stage": (1, 1), "nonlocal_blocks": {"res3": (0,)}} | changes)
    model = randomise(lambda: VideoResNet(config, rngs=nnx.Rngs(0)))
    path = tmp_path / "new" / "model.safetensors"
    weights.save_own(model, path, ("a", "Übung"))
    found = read.torch_file(path)
    _, params, batch_stats = flat.split(model)
    assert found.keys() == params.keys() | batch_stats.keys()
    for name, array in (params | batch_stats).items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    data = path.read_bytes()
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    assert json.loads(metadata["classes"]) == ["a", "Übung"] and json.loads(metadata["config"])["width"] == config.width
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_a_network_of_our_own_names_is_read_again(tmp_path, randomise):
    fields = {"blocks_per_stage": (1, 1), "nonlocal_blocks": {"res3": (0,)}, "geometry": "small"}
    config = dataclasses.replace(CONFIG, **fields)
    model, other = (randomise(lambda: VideoResNet(config, rngs=nnx.Rngs(0)), seed=seed) for seed in (1, 2))
    path = tmp_path / "model.safetensors"
    weights.save_own(model, path, ("a", "b"))
    assert own.classes_of(path) == ("a", "b") and not weights.load(other, path).left_at_init
    for found, wanted in zip(flat.split(other)[1:], flat.split(model)[1:], strict=True):
        for name in wanted:
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    for changes, message in (
        ({"geometry": "paper"}, "has geometry='small', and the model geometry='paper'; set geometry='small'"),
        ({"nonlocal_options": {"pairwise": "dot_product"}}, "set nonlocal_options="),
        ({"width": 8}, "set width=4"),
        ({"nonlocal_blocks": {}}, "the file has non-local blocks where the model has none"),
    ):
        wrong = nnx.eval_shape(
            lambda changes=changes: VideoResNet(dataclasses.replace(config, **changes), rngs=nnx.Rngs(0))
        )
        with pytest.raises(InputError, match=message):
            weights.load(wrong, path)


def test_a_network_with_blocks_of_other_kinds_is_no_network_of_pyslowfast(tmp_path):
    for options, message in (
        ({"variant": "global_context"}, "res3_1_nonlocal is global_context"),
        ({"res3": {"pairwise": "dot_product"}}, "its blocks have several functions, dot_product, embedded_gaussian"),
    ):
        blocks = {"res3": (1,), "res4": (0,)}
        config = dataclasses.replace(CONFIG, nonlocal_blocks=blocks, nonlocal_options=options)
        model = nnx.eval_shape(lambda config=config: VideoResNet(config, rngs=nnx.Rngs(0)))
        with pytest.raises(InputError, match=message):
            weights.save(model, tmp_path / "model.pyth")
