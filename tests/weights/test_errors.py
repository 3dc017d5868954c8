"""Files that cannot be loaded: the error gives the reason and the change to make, and the network is unchanged."""

import re

import numpy as np
import pytest
from flax import nnx

from nl_jax import weights
from nl_jax.errors import InputError
from nl_jax.models import ResNetConfig, VideoResNet, flat

BLOCKS = {"res3": (0,), "res4": (1,)}
NONLOCAL_AT = {1: (0,), 2: (1,)}


def make_config(**changes):
    defaults = {"blocks_per_stage": (1, 2, 2, 2), "width": 4, "num_classes": 5, "inflate": "3x1x1"}
    return ResNetConfig(**defaults | {"geometry": "slowfast", "nonlocal_blocks": BLOCKS} | changes)


def refusal(path, source, config, **options):
    model = nnx.eval_shape(lambda: VideoResNet(config, rngs=nnx.Rngs(0)))  # has no arrays to fill
    with pytest.raises(InputError) as raised:
        weights.load(model, path, source, **options)
    assert str(raised.value).startswith(str(path))
    return str(raised.value)


CONV2 = "s3.pathway0_res1.branch2.b.weight"
MISMATCHES = {
    "unknown name": (
        lambda t: t | {"head.other.weight": t[CONV2]},
        r"1 of \d+ names are unknown to source='slowfast': head.other.weight",
    ),
    "shape": (
        lambda t: t | {CONV2: t[CONV2][:, :3]},
        r"res3/1/conv2/kernel has shape \(1, 3, 3, 3, 8\) in the file and \(1, 3, 3, 8, 8\) in the model",
    ),
    "missing": (
        lambda t: {name: t[name] for name in t if name != CONV2},
        "the model has res3/1/conv2/kernel, and the file does not",
    ),
    "missing part of a block": (
        lambda t: {name: t[name] for name in t if name != "s4.pathway0_nonlocal1.conv_out.weight"},
        "the model has res4/1/nonlocal_block/w_z/kernel, and the file does not",
    ),
    "missing residual block": (
        lambda t: {name: t[name] for name in t if "s5.pathway0_res1" not in name},
        r"set blocks_per_stage=\(1, 2, 2, 1\)",
    ),
    "no statistics": (
        lambda t: {name: t[name] for name in t if "running" not in name},
        "the model has norm1/mean, norm1/var, .*, and the file does not|the model has .* and the file does not",
    ),
    "half a head": (
        lambda t: {name: t[name] for name in t if name != "head.projection.bias"},
        "the model has classifier/fc/bias, and the file does not",
    ),
    "not a number": (
        lambda t: t | {CONV2: t[CONV2] * float("nan")},
        "res1.branch2.b.weight in the file hold values that",
    ),
    "numbers of another kind": (lambda t: {"model_state": "text"}, "model_state is a str, valid are real numbers"),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_a_file_that_is_not_as_it_should_be(case, peers, write):
    change, message = MISMATCHES[case]
    tensors = change(peers["slowfast"].checkpoint(nonlocal_at=NONLOCAL_AT))
    assert re.search(message, refusal(write("slowfast", tensors), "slowfast", make_config()))


# Source of the file, its special content, the source asked for, the model, the message.
OTHER_NETWORKS = {
    "source": ("mmaction2", {}, "slowfast", {}, "source='mmaction2' knows some of them"),
    "geometry": (
        "slowfast",
        {},
        "slowfast",
        {"geometry": "paper"},
        "belong to geometry slowfast or slowfast_nopool, and the model has paper; set geometry='slowfast'",
    ),
    "geometry of mmaction2": ("mmaction2", {}, "mmaction2", {}, "set geometry='mmaction2'"),
    "geometry of mmaction2's C2D": (
        "mmaction2",
        {"two_d": True, "i3d": False, "nonlocal_at": {}},
        "mmaction2",
        {"geometry": "mmaction2", "inflate": None, "nonlocal_blocks": {}},
        "set geometry='caffe2_8'",
    ),
    "geometry of the release": (
        "caffe2",
        {},
        "caffe2",
        {"geometry": "mmaction2"},
        "caffe2_32 or caffe2_8 or slowfast",
    ),
    "2-D as 3-D": (
        "mmaction2",
        {"two_d": True},
        "mmaction2",
        {"geometry": "mmaction2"},
        "its kernels are 2-D: the file holds C2D, the model is I3D 3x1x1; set inflate=None",
    ),
    "images as video": (
        "torchvision",
        {"two_d": True, "nonlocal_at": {}},
        "mmaction2",
        {"geometry": "mmaction2"},
        "source='torchvision' knows",
    ),
    "I3D as C2D": ("slowfast", {}, "slowfast", {"inflate": None}, "the file holds I3D 3x1x1, the model is C2D"),
    "another inflation": ("slowfast", {}, "slowfast", {"inflate": "3x3x3"}, "set inflate='3x1x1'"),
    "missing non-local block": (
        "slowfast",
        {},
        "slowfast",
        {"nonlocal_blocks": {"res3": (0, 1)}},
        r"after res4 block 1; set nonlocal_blocks={'res3': \(0,\), 'res4': \(1,\)}",
    ),
    "depth": ("slowfast", {}, "slowfast", {"blocks_per_stage": (1, 2, 3, 2)}, r"set blocks_per_stage=\(1, 2, 2, 2\)"),
    "width": ("slowfast", {}, "slowfast", {"width": 8}, "width: conv1 has 4 channels in the file and 8"),
    "pairwise": (
        "mmaction2",
        {"gaussian": True},
        "mmaction2",
        {"geometry": "mmaction2"},
        "res3/0/nonlocal_block is gaussian in the file and embedded_gaussian or dot_product in the model",
    ),
}


@pytest.mark.parametrize("case", OTHER_NETWORKS)
def test_a_file_of_another_network(case, peers, write):
    writer, content, source, fields, message = OTHER_NETWORKS[case]
    tensors = peers[writer].checkpoint(**{"nonlocal_at": NONLOCAL_AT} | content)
    assert re.search(message, refusal(write(writer, tensors), source, make_config(**fields)))


def test_biases_tell_the_geometry(peers, write):
    tensors = peers["mmaction2"].checkpoint(nonlocal_at=NONLOCAL_AT)
    message = refusal(write("mmaction2", tensors), "mmaction2", make_config(), check_geometry=False)
    assert re.search("no res3/0/nonlocal_block/w_z/bias and the model has .*geometry='mmaction2' has none", message)


def test_another_geometry_is_loaded_when_asked_for(peers, write, randomise):
    tensors = peers["slowfast"].checkpoint(nonlocal_at=NONLOCAL_AT)
    model = randomise(lambda: VideoResNet(make_config(geometry="paper"), rngs=nnx.Rngs(0)))
    report = weights.load(model, write("slowfast", tensors), "slowfast", check_geometry=False)
    assert not report.left_at_init


def test_image_networks_of_the_release_are_inflated_when_asked_for(peers, write, randomise):
    tensors = peers["caffe2"].checkpoint(two_d=True, classes=1000)
    path = write("caffe2", tensors)
    assert "ask for the kernels of the file to be inflated" in refusal(path, "caffe2", make_config(geometry="paper"))
    model = randomise(lambda: VideoResNet(make_config(geometry="paper"), rngs=nnx.Rngs(0)))
    report = weights.load(model, path, "caffe2", inflate_2d=True)
    assert "conv1/kernel" in report.inflated and "classifier/fc/kernel" in report.left_at_init
    plane = tensors["conv1_w"].numpy().transpose(2, 3, 1, 0) / 5
    np.testing.assert_allclose(model.conv1.kernel[...], np.stack([plane] * 5), rtol=1e-6)


def test_a_refused_file_leaves_the_network_as_it_was(peers, write, randomise):
    model = randomise(lambda: VideoResNet(make_config(), rngs=nnx.Rngs(0)))
    before = flat.split(model)[1:]
    tensors = peers["slowfast"].checkpoint(nonlocal_at=NONLOCAL_AT)
    del tensors["s5.pathway0_res1.branch2.c_bn.weight"]
    with pytest.raises(InputError, match="res5/1/norm3/scale"):
        weights.load(model, write("slowfast", tensors), "slowfast")
    for old, new in zip(before, flat.split(model)[1:], strict=True):
        assert all(old[name] is new[name] or np.array_equal(old[name], new[name]) for name in old)


def test_the_report_names_what_is_no_weight(peers, write, randomise):
    model = randomise(lambda: VideoResNet(make_config(geometry="caffe2_32", norm="affine"), rngs=nnx.Rngs(0)))
    report = weights.load(model, write("caffe2", peers["caffe2"].checkpoint(nonlocal_at=NONLOCAL_AT)), "caffe2")
    assert {"lr", "model_iter", "conv1_w_momentum"} <= set(report.unused)
    assert "entries of the file are no weights: conv1_w_momentum" in str(report)
    assert "batch norms were folded into affine layers" in str(report)


def test_an_unknown_source_names_the_valid_ones():
    model = nnx.eval_shape(lambda: VideoResNet(make_config(), rngs=nnx.Rngs(0)))
    with pytest.raises(InputError, match="caffe2, slowfast, mmaction2, pytorchvideo, torchvision"):
        weights.load(model, "x.pth", "keras")
