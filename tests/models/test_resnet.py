"""C2D and I3D ResNets against the paper's counts and shapes and against a forward pass in PyTorch."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nl_jax.errors import InputError
from nl_jax.models import ResNetConfig, VideoResNet
from nl_jax.models.classifier import Classifier
from nl_jax.models.geometry import GEOMETRIES
from nl_jax.models.resnet import nonlocal_preset

FIVE = {"res3": (1, 3), "res4": (1, 3, 5)}
FIVE_101 = {"res3": (1, 3), "res4": (6, 13, 20)}


def abstract(config):
    """Builds the model without allocating its arrays."""
    return nnx.eval_shape(lambda: VideoResNet(config, rngs=nnx.Rngs(0)))


def shapes(config, video):
    """Returns the shape of every output by name: (t,h,w,c), or (k,) for the logits."""
    model = abstract(config)
    model.eval()
    graph, state = nnx.split(model)
    out = jax.eval_shape(
        lambda s, x: nnx.merge(graph, s)(x)[1], state, jax.ShapeDtypeStruct((1, *video, 3), jnp.float32)
    )
    return {name: value.shape[1:] for name, value in out.items()}


def laptop(**changes):
    """Returns a network that runs in milliseconds and still has every kind of layer."""
    defaults = {"blocks_per_stage": (1, 2, 2, 2), "width": 4, "num_classes": 5, "nonlocal_blocks": {"res3": (0,)}}
    return ResNetConfig(**defaults | changes)


def jitted(model):
    """Compile a function from video (and in training the dropout key) to every output and the new BN statistics."""
    graph, state = nnx.split(model)

    @jax.jit
    def apply(state, video, key):
        merged = nnx.merge(graph, state)
        _, out = merged(video, key)
        return out, nnx.state(merged, nnx.BatchStat)

    return lambda video, key=None: apply(state, video, key)


def clips(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, 3)), jnp.float32)


@pytest.mark.parametrize(
    "millions, depth, inflate, blocks",
    [
        (24.33, 50, None, {}),
        (31.69, 50, None, FIVE),
        (26.43, 50, None, {"res4": (4,)}),
        (28.04, 50, "3x1x1", {}),
        (35.40, 50, "3x1x1", FIVE),
        (43.32, 101, None, {}),
        (50.68, 101, None, FIVE_101),
        (51.75, 101, "3x1x1", {}),
        (59.11, 101, "3x1x1", FIVE_101),
        (63.04, 101, "3x3x3", {}),
    ],
)
def test_parameter_counts_of_the_paper(millions, depth, inflate, blocks):
    model = abstract(ResNetConfig(depth=depth, inflate=inflate, nonlocal_blocks=blocks))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert count / 1e6 == pytest.approx(millions, abs=0.01)
    assert set(model.nonlocal_blocks()) == {f"{stage}_{p}_nonlocal" for stage in blocks for p in blocks[stage]}


def test_layer_shapes_of_table_1():
    found = shapes(ResNetConfig(depth=50, nonlocal_blocks=FIVE), (32, 224, 224))
    expected = {
        "conv1": (16, 112, 112, 64),
        "pool1": (8, 56, 56, 64),
        **{f"res2_{i}": (8, 56, 56, 256) for i in range(3)},
        "pool2": (4, 56, 56, 256),
        **{f"res3_{i}": (4, 28, 28, 512) for i in range(4)},
        **{f"res3_{i}_nonlocal": (4, 28, 28, 512) for i in (1, 3)},
        **{f"res4_{i}": (4, 14, 14, 1024) for i in range(6)},
        **{f"res4_{i}_nonlocal": (4, 14, 14, 1024) for i in (1, 3, 5)},
        **{f"res5_{i}": (4, 7, 7, 2048) for i in range(3)},
        "logits": (400,),
    }
    assert found == expected


# Number of frames, then frames and size after conv1, pool1 and pool2, then the size of res3, at 224 x 224.
GEOMETRY_SHAPES = {
    "paper": (32, (16, 112), (8, 56), (4, 56), 28),
    "caffe2_32": (32, (16, 112), (8, 55), (4, 55), 28),
    "caffe2_8": (8, (8, 112), (8, 55), (4, 55), 28),
    "slowfast": (8, (8, 112), (8, 56), (4, 56), 28),
    "slowfast_nopool": (8, (8, 112), (8, 56), None, 28),
    "mmaction2": (32, (16, 112), (8, 56), (4, 56), 28),
    "small": (8, (8, 112), (8, 56), None, 28),
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_shapes_of_every_geometry(geometry):
    frames, conv1, pool1, pool2, res3 = GEOMETRY_SHAPES[geometry]
    found = shapes(laptop(geometry=geometry, inflate="3x1x1"), (frames, 224, 224))
    time = (pool2 or conv1)[0]
    expected = {"conv1": conv1, "pool1": pool1, "pool2": pool2, "res3_0": (time, res3), "res5_1": (time, res3 // 4)}
    assert {name: found[name][:2] if name in found else None for name in expected} == expected


# Published strides and pools (kernel, strides, padding), for the forward pass below.
TORCH_GEOMETRY = {
    "paper": ((2, 2, 2), ((3, 3, 3), (2, 2, 2), (1, 1, 1)), ((3, 1, 1), (2, 1, 1), (1, 0, 0))),
    "caffe2_32": ((2, 2, 2), ((2, 3, 3), (2, 2, 2), 0), ((2, 1, 1), (2, 1, 1), 0)),
    "caffe2_8": ((1, 2, 2), ((1, 3, 3), (1, 2, 2), 0), ((2, 1, 1), (2, 1, 1), 0)),
    "slowfast": ((1, 2, 2), ((1, 3, 3), (1, 2, 2), (0, 1, 1)), ((2, 1, 1), (2, 1, 1), 0)),
    "slowfast_nopool": ((1, 2, 2), ((1, 3, 3), (1, 2, 2), (0, 1, 1)), None),
    "mmaction2": ((2, 2, 2), ((1, 3, 3), (2, 2, 2), (0, 1, 1)), ((2, 1, 1), (2, 1, 1), 0)),
    "small": ((1, 2, 2), ((1, 2, 2), (1, 2, 2), 0), None),
}


class TorchForward:
    """The network of table 1 in PyTorch's functional layers, with the parameters of a VideoResNet by path."""

    def __init__(self, torch, model, geometry, subsample, rsqrt_d):
        self.torch, self.F = torch, torch.nn.functional
        leaves = nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))
        self.tensors = {"/".join(map(str, path)): torch.tensor(np.array(value[...])) for path, value in leaves}
        self.geometry, self.subsample, self.rsqrt_d = geometry, subsample, rsqrt_d

    def conv(self, x, name, stride=1):
        kernel = self.tensors[f"{name}/kernel"].permute(4, 3, 0, 1, 2)
        time_stride = stride[0] if isinstance(stride, tuple) else 1
        stride = stride[1] if isinstance(stride, tuple) else stride
        return self.F.conv3d(x, kernel, None, (time_stride, stride, stride), [k // 2 for k in kernel.shape[2:]])

    def norm(self, x, name):
        mean, var, scale, bias = (self.tensors[f"{name}/{part}"] for part in ("mean", "var", "scale", "bias"))
        return self.F.batch_norm(x, mean, var, scale, bias, eps=1e-5)

    def linear(self, x, name):
        """Applies a 1x1x1 convolution."""
        weight = self.tensors[f"{name}/kernel"].T[..., None, None, None]
        return self.F.conv3d(x, weight, self.tensors.get(f"{name}/bias"))

    def bottleneck(self, x, name, stride):
        y = self.norm(self.conv(x, f"{name}/conv1"), f"{name}/norm1").relu()
        y = self.norm(self.conv(y, f"{name}/conv2", stride), f"{name}/norm2").relu()
        y = self.norm(self.conv(y, f"{name}/conv3"), f"{name}/norm3")
        if f"{name}/shortcut/kernel" in self.tensors:
            x = self.norm(self.conv(x, f"{name}/shortcut", stride), f"{name}/shortcut_norm")
        return (x + y).relu()

    def nonlocal_block(self, x, name):
        keys = self.F.max_pool3d(x, (1, 2, 2)) if self.subsample == "before" else x
        theta, phi, g = (
            self.linear(x, f"{name}/theta"),
            self.linear(keys, f"{name}/phi"),
            self.linear(keys, f"{name}/g"),
        )
        if self.subsample == "after":
            phi, g = self.F.max_pool3d(phi, (1, 2, 2)), self.F.max_pool3d(g, (1, 2, 2))
        scores = self.torch.einsum("bdn,bdm->bnm", theta.flatten(2), phi.flatten(2))
        if self.rsqrt_d:
            scores = scores / theta.shape[1] ** 0.5
        y = self.torch.einsum("bnm,bcm->bcn", scores.softmax(-1), g.flatten(2)).reshape(theta.shape)
        return x + self.norm(self.linear(y, f"{name}/w_z"), f"{name}/norm")

    def __call__(self, video, stages):
        conv1_stride, pool1, pool2 = self.geometry
        out = {}
        x = self.torch.tensor(np.array(video)).permute(0, 4, 1, 2, 3)
        x = out["conv1"] = self.norm(self.conv(x, "conv1", conv1_stride), "norm1").relu()
        if pool1:
            x = out["pool1"] = self.F.max_pool3d(x, *pool1)
        for stage, count in stages.items():
            for i in range(count):
                stride = 2 if i == 0 and stage != "res2" else 1
                x = out[f"{stage}_{i}"] = self.bottleneck(x, f"{stage}/{i}", stride)
                if any(name.startswith(f"{stage}/{i}/nonlocal_block") for name in self.tensors):
                    x = out[f"{stage}_{i}_nonlocal"] = self.nonlocal_block(x, f"{stage}/{i}/nonlocal_block")
            if stage == "res2" and pool2:
                x = out["pool2"] = self.F.max_pool3d(x, *pool2)
        out = {name: value.permute(0, 2, 3, 4, 1).numpy() for name, value in out.items()}
        fc = self.tensors["classifier/fc/kernel"], self.tensors["classifier/fc/bias"]
        out["logits"] = (x.mean((2, 3, 4)) @ fc[0] + fc[1]).numpy()
        return out


@pytest.mark.parametrize(
    "geometry, inflate, subsample, rsqrt_d",
    [
        ("paper", None, "after", False),
        ("paper", "3x1x1", "after", False),
        ("caffe2_32", "3x1x1", "before", True),
        ("caffe2_8", "3x3x3", "before", True),
        ("slowfast", "3x1x1", "before", True),
        ("mmaction2", "3x3x3", "after", False),
        ("small", "3x1x1", None, False),
    ],
)
def test_equals_a_forward_pass_in_torch(geometry, inflate, subsample, rsqrt_d, randomise, torch):
    blocks = {"res3": (0,), "res4": (1,)}
    config = laptop(geometry=geometry, inflate=inflate, nonlocal_blocks=blocks)
    model = randomise(lambda: VideoResNet(config, rngs=nnx.Rngs(0)))
    model.eval()
    assert (model.res3[0].nonlocal_block.w_z.bias is None) == (geometry == "mmaction2")
    video = clips((2, 16, 66, 62))
    ours, _ = jitted(model)(video)
    expected = TorchForward(torch, model, TORCH_GEOMETRY[geometry], subsample, rsqrt_d)(video, config.stages())
    assert set(ours) == set(expected)
    for name in expected:  # in the order they run
        assert ours[name].shape == expected[name].shape, f"the shapes first differ at {name}"
        tolerance = 1e-5 * np.abs(expected[name]).max()
        np.testing.assert_allclose(ours[name], expected[name], atol=tolerance, err_msg=f"first divergence at {name}")


@pytest.mark.parametrize("inflate", ["3x1x1", "3x3x3"])
def test_which_kernels_are_inflated(inflate):
    which = "conv1" if inflate == "3x1x1" else "conv2"
    params = nnx.to_flat_state(nnx.state(abstract(ResNetConfig(inflate=inflate)), nnx.Param))
    kernels = {path: value.shape for path, value in params if len(value.shape) == 5}
    assert kernels.pop(("conv1", "kernel")) == (5, 7, 7, 3, 64)
    positions = {"res2": (0, 1, 2), "res3": (0, 2), "res4": (0, 2, 4), "res5": (1,)}
    inflated = {(stage, position, which, "kernel") for stage in positions for position in positions[stage]}
    assert {path for path, shape in kernels.items() if shape[0] != 1} == inflated
    assert {kernels[path][:3] for path in inflated} == {(3, 1, 1) if which == "conv1" else (3, 3, 3)}


def test_new_nonlocal_blocks_do_not_change_the_output():
    blocks = {"res2": (0,), "res3": (0, 1)}
    with_blocks = VideoResNet(laptop(blocks_per_stage=(1, 2), nonlocal_blocks=blocks), rngs=nnx.Rngs(0))
    without = abstract(laptop(blocks_per_stage=(1, 2), nonlocal_blocks={}))
    flat = nnx.to_flat_state(nnx.state(with_blocks))
    nnx.update(without, nnx.from_flat_state([(path, v) for path, v in flat if "nonlocal_block" not in path]))
    video, key = clips((2, 8, 32, 32)), jax.random.key(0)
    ours, _ = jitted(with_blocks)(video, key)
    expected, _ = jitted(without)(video, key)
    np.testing.assert_allclose(ours["logits"], expected["logits"], atol=1e-6)
    np.testing.assert_array_equal(ours["res3_1_nonlocal"], ours["res3_1"])


def test_statistics_move_in_training_alone(randomise):
    model = randomise(lambda: VideoResNet(laptop(blocks_per_stage=(1, 2)), rngs=nnx.Rngs(0)))
    before = nnx.to_flat_state(nnx.state(model, nnx.BatchStat))
    for mode in ("eval", "train"):
        getattr(model, mode)()
        _, statistics = jitted(model)(clips((2, 8, 32, 32)), jax.random.key(0))
        after = dict(nnx.to_flat_state(statistics))
        moved = {path for path, value in before if np.any(value[...] != after[path][...])}
        assert moved == (set(after) if mode == "train" else set())
    assert ("res3", 0, "nonlocal_block", "norm", "var") in moved


def test_frozen_statistics_do_not_move(randomise):
    model = randomise(lambda: VideoResNet(laptop(norm="frozen"), rngs=nnx.Rngs(0)))
    _, after = jitted(model)(clips((2, 8, 32, 32)), jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model, nnx.BatchStat), after)


def test_group_size_reaches_every_norm():
    model = abstract(laptop(group_size=3))
    sizes = {module.group_size for _, module in nnx.iter_graph(model) if hasattr(module, "group_size")}
    assert sizes == {3}


@pytest.mark.parametrize("window, size", [(3, (4, 5)), (4, (3, 6)), (4, (4, 4)), (7, (4, 5)), (None, (4, 5))])
def test_head_averages_the_softmax_of_a_sliding_window(window, size, randomise):
    head = randomise(lambda: Classifier(6, 5, window=window, rngs=nnx.Rngs(0)))
    head.eval()
    x = np.random.default_rng(0).normal(size=(2, 3, *size, 6)).astype(np.float32)
    kernel, bias = (np.asarray(p[...], np.float64) for p in (head.fc.kernel, head.fc.bias))

    height, width = (s if window is None else min(window, s) for s in size)
    cells = []
    for i in range(size[0] - height + 1):
        for j in range(size[1] - width + 1):
            logits = x[:, :, i : i + height, j : j + width].mean((1, 2, 3)) @ kernel + bias
            cells.append(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    found = head(jnp.asarray(x))
    np.testing.assert_allclose(jax.nn.softmax(found), np.mean(cells, axis=0), atol=1e-6)
    if len(cells) > 1:  # the logits are the logarithm of the mean
        np.testing.assert_allclose(found, np.log(np.mean(cells, axis=0)), atol=1e-5)


def test_dropout_is_active_in_training_alone_and_keyed(randomise):
    head = randomise(lambda: Classifier(64, 5, dropout=0.5, rngs=nnx.Rngs(0)))
    x = jnp.ones((2, 1, 1, 1, 64))
    a, b = jax.random.split(jax.random.key(0))
    np.testing.assert_array_equal(head(x, a), head(x, a))
    assert np.all(head(x, a) != head(x, b))
    assert np.all(head(x, a)[0] != head(x, a)[1])  # every clip has its own mask
    with pytest.raises(ValueError):
        head(x)
    head.eval()
    np.testing.assert_allclose(head(x), head.fc(x[:, 0, 0, 0]), atol=1e-6)


def test_laptop_sizes():
    config = ResNetConfig(blocks_per_stage=(1, 2), width=8, geometry="small", num_classes=7)
    found = shapes(config, (4, 16, 16))
    assert found == {
        "conv1": (4, 8, 8, 8),
        "pool1": (4, 4, 4, 8),
        "res2_0": (4, 4, 4, 32),
        "res3_0": (4, 2, 2, 64),
        "res3_1": (4, 2, 2, 64),
        "logits": (7,),
    }


def test_options_reach_the_blocks_and_override_the_geometry():
    def block(geometry, **options):
        config = laptop(geometry=geometry, nonlocal_options=options)
        return abstract(config).nonlocal_blocks()["res3_0_nonlocal"]

    assert block("caffe2_8").subsample == "before"
    assert block("caffe2_8").scale == pytest.approx(16**-0.5)
    assert block("caffe2_8", subsample=None, scale=2.0).subsample is None
    assert block("caffe2_8", subsample=None, scale=2.0).scale == 2.0
    assert block("paper", axes="time").subsample is None
    assert block("paper", pairwise="gaussian", norm="none").norm is None
    assert block("paper", inner_channels=3).g.kernel.shape == (32, 3)


def test_bfloat16_computes_and_float32_remains(randomise):
    def network(dtype):
        config = laptop(blocks_per_stage=(1, 2), inflate="3x1x1", dtype=dtype)
        model = randomise(lambda: VideoResNet(config, rngs=nnx.Rngs(0)))
        model.eval()
        return model

    model = network("bfloat16")
    video = clips((2, 8, 32, 32))
    out, _ = jitted(model)(video)
    dtypes = {name: value.dtype for name, value in out.items()}
    assert dtypes.pop("logits") == jnp.float32
    assert set(dtypes.values()) == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype(jnp.float32)}

    expected, _ = jitted(network("float32"))(video)
    spread = np.abs(expected["logits"]).max()
    np.testing.assert_allclose(out["logits"], expected["logits"], atol=0.05 * spread)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_remat_keeps_less_and_changes_nothing(dtype, randomise):
    """The loss, gradients and batch norm statistics are the same. The statistics move, though forward runs twice."""
    video = clips((2, 8, 32, 32))

    def build(remat):
        config = laptop(inflate="3x1x1", norm="global", dropout=0.0, dtype=dtype, remat=remat)
        graph, params, stats = nnx.split(randomise(lambda: VideoResNet(config, rngs=nnx.Rngs(0))), nnx.Param, ...)

        def loss(params):
            model = nnx.merge(graph, params, stats, copy=True)
            logits, _ = model(video)
            return jnp.square(logits).sum(), nnx.state(model, nnx.BatchStat)

        kept = jax.eval_shape(lambda params: jax.vjp(loss, params, has_aux=True)[1], params)
        kept = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
        (_, moved), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return stats, kept, jax.tree.leaves((moved, gradients))

    before, all_kept, expected = build(())
    _, kept, found = build(("res2", "res3", "res4", "res5"))
    assert kept < 0.85 * all_kept  # conv1 and the parameters remain
    tolerance = 1e-5 if dtype == "float32" else 0.02
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max())
    moved = found[: len(jax.tree.leaves(before))]
    assert all(np.any(old != new) for old, new in zip(jax.tree.leaves(before), moved, strict=True))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"remat": ("res2", "res6")}, "remat names res6, but the stages are res2, res3, res4, res5"),
        (
            {"depth": 34, "blocks_per_stage": None, "nonlocal_blocks": {}},
            "depth=34 is unknown; choose one of 50, 101, 152",
        ),
        ({"inflate": "1x3x3"}, "inflate='1x3x3' is unknown; choose one of None, 3x1x1, 3x3x3"),
        ({"geometry": "papr"}, "geometry='papr' is unknown; choose one of paper, caffe2_32, caffe2_8, slowfast, slow"),
        ({"dtype": "float16"}, "dtype='float16' is unknown; choose float32 or bfloat16"),
        ({"norm": "layer"}, "norm='layer' is unknown; choose one of batch, global, affine, frozen"),
        ({"nonlocal_blocks": {"res6": (0,)}}, "names 'res6', but the stages are res2, res3, res4, res5"),
        ({"nonlocal_blocks": {"res3": (2,)}}, "after residual block 2 of res3, which has blocks 0 to 1"),
        ({"nonlocal_blocks": {"res3": (-1,)}}, "after residual block -1 of res3, which has blocks 0 to 1"),
        ({"nonlocal_blocks": {"res3": (0, 0)}}, "nonlocal_blocks.res3=(0, 0) names a residual block twice"),
        ({"nonlocal_blocks": {}, "nonlocal_options": {"axes": "time"}}, "nonlocal_blocks names no residual block"),
        ({"nonlocal_options": {"pairwise": "dot"}}, "pairwise='dot' is unknown; choose one of gaussian, embedded_ga"),
    ],
)
def test_bad_configs(changes, message):
    with pytest.raises(InputError, match=re.escape(message)):
        abstract(laptop(**changes))


def test_nonlocal_blocks_are_named_in_the_order_they_run():
    names = list(abstract(laptop(nonlocal_blocks={"res4": (1,), "res3": (1, 0)})).nonlocal_blocks())
    assert names == ["res3_0_nonlocal", "res3_1_nonlocal", "res4_1_nonlocal"]


@pytest.mark.parametrize(
    "depth, count, expected",
    [
        (50, 0, {}),
        (50, 1, {"res4": (4,)}),
        (50, 5, {"res3": (1, 3), "res4": (1, 3, 5)}),
        (50, 10, {"res3": (0, 1, 2, 3), "res4": (0, 1, 2, 3, 4, 5)}),
        (101, 1, {"res4": (21,)}),
        (101, 5, {"res3": (1, 3), "res4": (6, 13, 20)}),
        (101, 10, {"res3": (0, 1, 2, 3), "res4": (2, 5, 8, 11, 14, 17)}),
    ],
)
def test_presets(depth, count, expected):
    assert nonlocal_preset(depth, count) == expected
    assert len(abstract(ResNetConfig(depth=depth, nonlocal_blocks=expected)).nonlocal_blocks()) == count


def test_an_unknown_preset():
    with pytest.raises(InputError, match="no preset of 3 blocks for depth 50; choose 0, 1, 5 or 10"):
        nonlocal_preset(50, 3)


def test_options_of_one_stage():
    config = laptop(nonlocal_blocks={"res3": (0,), "res4": (0,)}, nonlocal_options={"res3": {"time_group": 4}})
    blocks = abstract(config).nonlocal_blocks()
    assert (blocks["res3_0_nonlocal"].time_group, blocks["res4_0_nonlocal"].time_group) == (4, None)
    with pytest.raises(InputError, match="nonlocal_options names time_grup; valid are"):
        abstract(laptop(nonlocal_options={"res3": {"time_grup": 4}}))


@pytest.mark.parametrize("shape", [(4, 32, 32, 3), (1, 3, 4, 32, 32), (0, 4, 32, 32, 3)])
def test_an_input_that_is_no_video(shape):
    config = ResNetConfig(blocks_per_stage=(1,), width=4, num_classes=2, dropout=0.5)
    model = nnx.eval_shape(lambda: VideoResNet(config, rngs=nnx.Rngs(0)))
    with pytest.raises(InputError, match=r"takes videos \(b,t,h,w,3\) with channels last, not shape"):
        inspect.unwrap(VideoResNet.features)(model, jnp.zeros(shape))


def test_training_with_dropout_needs_its_key():
    config = ResNetConfig(blocks_per_stage=(1,), width=4, num_classes=2, dropout=0.5, geometry="small")
    model = nnx.eval_shape(lambda: VideoResNet(config, rngs=nnx.Rngs(0)))
    with pytest.raises(InputError, match=r"dropout=0\.5 needs dropout_key, a jax\.random\.key, in training"):
        jax.eval_shape(lambda x: model.classifier(x), jnp.zeros((1, 1, 4, 4, 16)))
