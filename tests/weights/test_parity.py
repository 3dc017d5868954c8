"""Random weights of every source, read by `load`, give the logits that the source's own program computes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nl_jax import weights
from nl_jax.models import ResNetConfig, VideoResNet

FIVE = {"nonlocal_blocks": {"res3": (1, 3), "res4": (1, 3, 5)}}
RELEASE_R101 = {"nonlocal_blocks": {"res3": (1, 3), "res4": (6, 13, 20)}}
TWO = {"nonlocal_blocks": {"res3": (0,), "res4": (1,)}}  # blocks in a network of few blocks
I3D = {"inflate": "3x1x1"}


def clips(*shape):
    return jnp.asarray(np.random.default_rng(1).normal(size=(*shape, 3)), jnp.float32)


def network(randomise, depth, **fields):
    """Returns a network in which every number is wrong until it is loaded."""
    blocks = {"blocks_per_stage": (1, 2, 2, 2)} if depth == "few" else {"depth": depth}
    config = ResNetConfig(**{"width": 4, "num_classes": 5} | blocks | fields)
    model = randomise(lambda: VideoResNet(config, rngs=nnx.Rngs(0)), seed=7)
    model.eval()
    return model


def forward(model, video):
    """Returns logits and all intermediates. One compiled program is faster than compiling every operation."""
    graphdef, state = nnx.split(model)
    return jax.jit(lambda state, video: nnx.merge(graphdef, state)(video))(state, video)


def assert_layers_close(found, expected):
    """Compares layer by layer, in the order they run. The error names the first that differs."""
    assert found.keys() - {"logits"} == expected.keys()
    for name, layer in expected.items():
        np.testing.assert_allclose(
            found[name], layer, rtol=0, atol=1e-4 * np.abs(layer).max(), err_msg=f"{name} is the first that diverges"
        )


def assert_close(found, expected, tolerance=1e-4):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def pairwise(name):
    return {"nonlocal_options": {"pairwise": name}}


# Source, depth, fields of our config, special features of the file.
CASES = {
    "slowfast I3D R50": ("slowfast", 50, FIVE | I3D, {}),
    "slowfast I3D R101": ("slowfast", 101, FIVE | I3D, {}),
    "slowfast C2D dot product": ("slowfast", "few", TWO | pairwise("dot_product"), {}),
    "mmaction2 R50 dot product": ("mmaction2", 50, FIVE | I3D | pairwise("dot_product"), {}),
    "mmaction2 gaussian": ("mmaction2", "few", TWO | I3D | pairwise("gaussian"), {"gaussian": True}),
    "mmaction2 concatenation": ("mmaction2", "few", TWO | I3D | pairwise("concatenation"), {"concat": True}),
    "mmaction2 embedded gaussian": ("mmaction2", "few", TWO | I3D, {}),
    "mmaction2 C2D, 2-D kernels": ("mmaction2", "few", {"geometry": "caffe2_8"}, {"two_d": True}),
    "mmaction2 C2D of frames": ("mmaction2", "few", {"geometry": "slowfast_nopool"}, {"two_d": True}),
    "pytorchvideo I3D": ("pytorchvideo", "few", {"geometry": "slowfast"} | I3D, {}),
    "caffe2 without a pool over time": ("caffe2", "few", {"geometry": "slowfast_nopool"}, {}),
    "caffe2 I3D R50": ("caffe2", 50, {"geometry": "caffe2_32"} | FIVE | I3D, {}),
    "caffe2 I3D R101": ("caffe2", 101, {"geometry": "caffe2_32"} | I3D | RELEASE_R101, {}),
    "caffe2 long-term feature bank": ("caffe2", "few", {"geometry": "slowfast"} | TWO | I3D, {}),
    "caffe2 batch norm into affine": ("caffe2", "few", {"geometry": "caffe2_8", "norm": "affine"} | TWO | I3D, {}),
    "caffe2 affine": ("caffe2", "few", {"geometry": "caffe2_8", "norm": "affine"} | TWO, {"affine": True}),
    "caffe2 affine into frozen": ("caffe2", "few", {"geometry": "caffe2_8", "norm": "frozen"} | TWO, {"affine": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_source(case, peers, write, randomise):
    source, depth, fields, content = CASES[case]
    fields = {"geometry": source} | fields
    at = {int(stage[-1]) - 2: blocks for stage, blocks in fields.get("nonlocal_blocks", {}).items()}
    tensors = peers[source].checkpoint(depth, i3d="inflate" in fields, nonlocal_at=at, **content)
    model = network(randomise, depth, **fields)

    report = weights.load(model, write(source, tensors), source)
    assert not report.left_at_init and not report.inflated
    video = clips(2, 8, 64, 64)
    options = fields.get("nonlocal_options", {})
    expected, layers = peers[source].forward(tensors, video, fields["geometry"], depth=depth, **options)
    logits, out = forward(model, video)
    assert_layers_close(out, layers)
    assert_close(logits, expected)


@pytest.mark.parametrize("pairwise_function", ["embedded_gaussian", "dot_product"])
def test_in_float64_nothing_but_rounding_is_left(pairwise_function, peers, write, randomise):
    """float64 shows errors that float32 hides: an epsilon, a scale or a padding that is slightly wrong."""
    peer = peers["slowfast"]
    tensors = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in peer.checkpoint(50, nonlocal_at={1: (1, 3), 2: (1, 3, 5)}).items()
    }
    with jax.enable_x64(True):
        model = network(
            randomise, 50, geometry="slowfast", dtype="float64", **FIVE, **I3D, **pairwise(pairwise_function)
        )
        nnx.update(model, jax.tree.map(lambda x: x.astype(jnp.float64), nnx.state(model)))
        weights.load(model, write("slowfast", tensors), "slowfast")
        video = np.random.default_rng(1).normal(size=(1, 8, 64, 64, 3))
        expected, layers = peer.forward(tensors, video, "slowfast", depth=50, pairwise=pairwise_function)
        logits, out = forward(model, jnp.asarray(video))
        assert logits.dtype == np.float64
        for name, layer in layers.items():
            assert_close(out[name], layer, 1e-9)
        assert_close(logits, expected, 1e-9)


@pytest.mark.parametrize("source, geometry", [("slowfast", "slowfast"), ("caffe2", "caffe2_32")])
def test_softmax_of_a_window_slid_over_a_larger_crop(source, geometry, peers, write, randomise):
    tensors = peers[source].checkpoint(nonlocal_at={1: (0,), 2: (1,)})
    model = network(randomise, "few", geometry=geometry, head_window=2, **TWO, **I3D)
    weights.load(model, write(source, tensors), source)
    video = clips(1, 8, 96, 80)
    expected, _ = peers[source].forward(tensors, video, geometry, window=2)
    whole = jax.nn.softmax(peers[source].forward(tensors, video, geometry)[0])
    assert np.abs(expected - whole).max() > 1e-3  # the window has an effect
    assert_close(jax.nn.softmax(forward(model, video)[0]), expected)


def inflate(tensors, frames):
    """Inflate kernels: each plane is a t-th of the kernel, with t by name."""
    result = dict(tensors)
    for name, t in frames.items():
        result[name] = (tensors[name] / t)[:, :, None].repeat(1, 1, t, 1, 1)
    return result


def test_image_networks_are_inflated(peers, write, randomise):
    peer = peers["torchvision"]
    tensors = peer.checkpoint(50, two_d=True)
    at = {0: (0, 1, 2), 1: (0, 2), 2: (0, 2, 4), 3: (1,)}  # the inflated blocks
    frames = {"conv1.weight": 5} | {peer.conv(stage, block, 1): 3 for stage in at for block in at[stage]}
    model = network(randomise, 50, geometry="paper", **I3D)
    report = weights.load(model, write("torchvision", tensors), "torchvision")
    assert len(report.inflated) == len(frames) and not report.left_at_init
    video = clips(2, 8, 64, 64)
    expected, layers = peer.forward(inflate(tensors, frames), video, "paper", depth=50)
    logits, out = forward(model, video)
    assert_layers_close(out, layers)
    assert_close(logits, expected)


@pytest.mark.parametrize("pairwise", ["gaussian", "embedded_gaussian", "dot_product", "concatenation"])
def test_the_paper_s_own_geometry(pairwise, peers, write, randomise):
    """No zoo has this network. Names are borrowed, and strides, pools and blocks are those of the paper."""
    peer = dataclasses.replace(peers["mmaction2"], out_bias=True)
    kind = {"gaussian": {"gaussian": True}, "concatenation": {"concat": True}}.get(pairwise, {})
    tensors = peer.checkpoint(nonlocal_at={1: (0,), 2: (1,)}, **kind)
    model = network(randomise, "few", geometry="paper", nonlocal_options={"pairwise": pairwise}, **TWO, **I3D)
    weights.load(model, write("mmaction2", tensors), "mmaction2", check_geometry=False)
    video = clips(2, 8, 64, 64)
    expected, layers = peer.forward(tensors, video, "paper", pairwise=pairwise)
    logits, out = forward(model, video)
    assert_layers_close(out, layers)
    assert_close(logits, expected)


def test_an_image_network_starts_a_nonlocal_one_with_new_classes(peers, write, randomise):
    tensors = peers["torchvision"].checkpoint(two_d=True, classes=1000)
    model = network(randomise, "few", geometry="caffe2_8", nonlocal_blocks={"res4": (0,)})
    norm = model.res4[0].nonlocal_block.norm  # as in a new block, which is the identity
    norm.scale[...] = norm.bias[...] = jnp.zeros(64)
    head = np.array(model.classifier.fc.kernel[...])
    report = weights.load(model, write("torchvision", tensors), "torchvision")
    left = {name.rsplit("/", 1)[0] for name in report.left_at_init}
    parts = ("theta", "phi", "g", "w_z", "norm")
    assert left == {"classifier/fc"} | {f"res4/0/nonlocal_block/{part}" for part in parts}
    np.testing.assert_array_equal(model.classifier.fc.kernel[...], head)
    assert "left at initialization: classifier/fc, res4/0/nonlocal_block/g" in str(report)

    # The features are those of the image network.
    video = clips(2, 8, 64, 64)
    out = forward(model, video)[1]
    features = out["res5_1"].mean(axis=(1, 2, 3))
    tensors |= {"fc.weight": tensors["fc.weight"][:3], "fc.bias": tensors["fc.bias"][:3]}
    logits = np.asarray(features) @ tensors["fc.weight"].numpy().T + tensors["fc.bias"].numpy()
    assert_close(logits, peers["torchvision"].forward(tensors, video, "caffe2_8")[0])
