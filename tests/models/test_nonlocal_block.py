"""The non-local block against the formula in NumPy and against mmcv, the one peer with all four pairwise functions."""

import inspect
import pickle
import re
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nl_jax.errors import InputError
from nl_jax.models import NonLocalBlock
from nl_jax.models.nonlocal_block import PAIRWISE

CHANNELS = 6
SHAPE = (2, 3, 5, 4, CHANNELS)  # the height is odd, so pooling leaves the last row out
AXES_AND_SUBSAMPLE = [(axes, how) for axes in ("spacetime", "space") for how in (None, "before", "after")]
AXES_AND_SUBSAMPLE += [("time", None)]


def video(shape=SHAPE, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def run(block, x):
    return jitted(block)(x)


def jitted(block, method="__call__"):
    """Compile the block as one program, because compiling every small operation by itself takes longer."""
    graph, state = nnx.split(block)
    apply = jax.jit(lambda state, x, *args: getattr(nnx.merge(graph, state), method)(x, *args))
    return partial(apply, state)


class Reference:
    """The block for one clip (t,h,w,c) in float64, with every pair written out."""

    def __init__(self, block, pairwise, axes, subsample, scale):
        self.block, self.pairwise, self.axes, self.subsample, self.scale = block, pairwise, axes, subsample, scale

    def linear(self, name, x):
        layer = getattr(self.block, name)
        return x @ np.asarray(layer.kernel[...], np.float64) + np.asarray(layer.bias[...], np.float64)

    def pool(self, x):
        t, h, w, c = x.shape
        if h == w == 1:  # a sequence
            return x[: t // 2 * 2].reshape(t // 2, 2, 1, 1, c).max(1)
        return x[:, : h // 2 * 2, : w // 2 * 2].reshape(t, h // 2, 2, w // 2, 2, c).max((2, 4))

    def groups(self, x):
        """Returns the sets of positions that are summed over, each (n,c)."""
        if self.axes == "spacetime":
            return [x.reshape(-1, x.shape[-1])]
        if self.axes == "space":
            return [frame.reshape(-1, x.shape[-1]) for frame in x]
        return [x[:, i, j] for i in range(x.shape[1]) for j in range(x.shape[2])]

    def matrix(self, theta, phi):
        """Returns f(x_i, x_j) / C(x) for every pair: (n,m)."""
        if self.pairwise == "concatenation":
            w_f = np.asarray(self.block.w_f.kernel[:, 0], np.float64)
            return np.array([[max(w_f @ np.concatenate([a, b]), 0) for b in phi] for a in theta]) / len(phi)
        if self.pairwise == "dot_product":
            return theta @ phi.T / len(phi)
        f = np.exp(self.scale * theta @ phi.T)
        return f / f.sum(1, keepdims=True)

    def __call__(self, x):
        """Returns the rows of every group and the output."""
        x = np.asarray(x, np.float64)
        keys = self.pool(x) if self.subsample == "before" else x
        theta, phi = (x, keys) if self.pairwise == "gaussian" else (self.linear("theta", x), self.linear("phi", keys))
        g = self.linear("g", keys)
        if self.subsample == "after":
            phi, g = self.pool(phi), self.pool(g)
        rows = [self.matrix(a, b) for a, b in zip(self.groups(theta), self.groups(phi), strict=True)]
        y = np.array([f @ values for f, values in zip(rows, self.groups(g), strict=True)])
        if self.axes == "time":
            y = y.reshape(*x.shape[1:3], x.shape[0], -1).transpose(2, 0, 1, 3)
        return np.array(rows), x + self.linear("w_z", y.reshape(*x.shape[:-1], -1))


@pytest.mark.parametrize("axes, subsample", AXES_AND_SUBSAMPLE)
@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_output_and_rows_equal_the_formula(pairwise, axes, subsample, randomise):
    scale = 0.7 if pairwise.endswith("gaussian") else 1.0
    options = {"pairwise": pairwise, "axes": axes, "subsample": subsample, "scale": scale, "norm": "none"}
    block = randomise(lambda: NonLocalBlock(CHANNELS, **options, rngs=nnx.Rngs(0)))
    x = video()
    rows, z = zip(*(Reference(block, pairwise, axes, subsample, scale)(clip) for clip in x), strict=True)
    rows = np.concatenate(rows)

    np.testing.assert_allclose(run(block, x), z, atol=1e-5)
    positions = jnp.array([0, 2, rows.shape[1] - 1])
    np.testing.assert_allclose(jitted(block, "attention_rows")(x, positions), rows[:, positions], atol=1e-6)
    assert np.prod(block.key_shape(SHAPE)) == rows.shape[2]


class MaskedReference(Reference):
    """The same over the valid positions of a clip alone: `valid` (t,h,w)."""

    def __init__(self, valid, *arguments):
        super().__init__(*arguments)
        self.valid = valid
        windows = valid[:, : valid.shape[1] // 2 * 2, : valid.shape[2] // 2 * 2]
        windows = windows.reshape(valid.shape[0], valid.shape[1] // 2, 2, valid.shape[2] // 2, 2)
        keys = windows.any((2, 4)) if self.subsample else valid
        self.of_groups = iter([mask[:, 0] for mask in self.groups(keys[..., None])])

    def pool(self, x):
        t, h, w, c = x.shape
        pooled = np.zeros((t, h // 2, w // 2, c))
        for i, j, k in np.ndindex(*pooled.shape[:3]):
            window = np.s_[i, 2 * j : 2 * j + 2, 2 * k : 2 * k + 2]
            if self.valid[window].any():
                pooled[i, j, k] = x[window][self.valid[window]].max(0)
        return pooled

    def matrix(self, theta, phi):
        valid = next(self.of_groups)
        rows = np.zeros((len(theta), len(phi)))
        if valid.any():
            rows[:, valid] = super().matrix(theta, phi[valid])
        return rows


@pytest.mark.parametrize("axes, subsample", AXES_AND_SUBSAMPLE)
@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_positions_that_are_not_valid_are_not_summed_over(pairwise, axes, subsample, randomise):
    options = {"pairwise": pairwise, "axes": axes, "subsample": subsample, "norm": "none"}
    block = randomise(lambda: NonLocalBlock(CHANNELS, **options, rngs=nnx.Rngs(0)))
    x = video()
    valid = np.random.default_rng(1).random(SHAPE[:-1]) < 0.5
    valid[:, :, :2, :2], valid[0, 1], valid[1, :, 2, 2] = (
        False,
        False,
        False,
    )  # a window, a frame, a place for all times
    references = [MaskedReference(mask, block, pairwise, axes, subsample, 1.0) for mask in valid]
    rows, z = zip(*(reference(clip) for reference, clip in zip(references, x, strict=True)), strict=True)
    graph, state = nnx.split(block)
    valid = jnp.asarray(valid)

    @jax.jit
    def run(x):
        block = nnx.merge(graph, state)
        return block(x, valid), block.attention_rows(x, jnp.array([0, 2]), valid)

    found, found_rows = run(x)
    np.testing.assert_allclose(found, z, atol=1e-5)
    np.testing.assert_allclose(found_rows, np.concatenate(rows)[:, [0, 2]], atol=1e-6)

    if axes != "spacetime":
        return
    # The content of an invalid position does not change the others, and gets no gradient from them.
    changed, _ = run(jnp.where(valid[..., None], x, 7.0))
    np.testing.assert_allclose(jnp.where(valid[..., None], changed - found, 0), 0, atol=1e-6)
    loss = lambda x: (jnp.where(valid[..., None], run(x)[0], 0) ** 2).sum()  # noqa: E731
    gradient = jax.grad(loss)(x)
    assert not np.any(np.where(valid[..., None], 0, gradient)) and np.isfinite(gradient).all()


def test_images_and_sequences_take_a_mask_too(randomise):
    def build():
        return NonLocalBlock(CHANNELS, subsample="before", norm="none", rngs=nnx.Rngs(0))

    for shape in ((2, 4, 6, CHANNELS), (2, 8, CHANNELS)):
        x, cut = video(shape), shape[1] - 2
        valid = jnp.broadcast_to(jnp.arange(shape[1]) < cut, (2, shape[1]))
        valid = jnp.broadcast_to(valid.reshape(2, -1, *(1,) * (len(shape) - 3)), shape[:-1])
        block = randomise(build)
        whole = run(block, x[:, :cut])
        np.testing.assert_allclose(block(x, valid)[:, :cut], whole, atol=1e-5)


def test_a_mask_of_another_shape():
    with pytest.raises(InputError, match=re.escape("valid has shape (2, 3): give one truth value a position")):
        inspect.unwrap(NonLocalBlock.__call__)(NonLocalBlock(6, rngs=nnx.Rngs(0)), video(), jnp.ones((2, 3), bool))


@pytest.mark.parametrize("subsample", ["before", "after"])
@pytest.mark.parametrize(
    "shape, keys",
    [((2, 3, 1, 1), 3), ((2, 1, 1, 7), 3), ((2, 1, 7), 3), ((2, 4, 1), 2), ((2, 1), 1), ((2, 2, 1, 6), 6)],
)
def test_an_axis_of_one_is_not_pooled(shape, keys, subsample, randomise):
    block = randomise(lambda: NonLocalBlock(CHANNELS, subsample=subsample, norm="none", rngs=nnx.Rngs(0)))
    x = video((*shape, CHANNELS))
    assert np.prod(block.key_shape(x.shape)) == keys
    rows = jitted(block, "attention_rows")(x, jnp.array([0]))
    assert rows.shape[2] == keys
    np.testing.assert_allclose(jitted(block)(x, jnp.ones(shape, bool)), run(block, x), atol=1e-6)
    if keys == np.prod(shape[1:]):
        block.subsample = None
        np.testing.assert_allclose(jitted(block, "attention_rows")(x, jnp.array([0])), rows, atol=1e-6)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((0, 2, 4, 4, 6), "an input of shape (0, 2, 4, 4, 6) is empty"),
        ((2, 0, 6), "an input of shape (2, 0, 6) is empty"),
        ((2, 6, 4, 4), "an input of shape (2, 6, 4, 4) has 4; move axis 1 to the end"),
        ((2, 4, 4, 5), "the block takes 6 channels, and an input of shape (2, 4, 4, 5) has 5"),
    ],
)
@pytest.mark.parametrize("method", ["__call__", "attention_rows"])
def test_an_input_that_is_no_input_of_this_block(shape, message, method):
    block = nnx.eval_shape(lambda: NonLocalBlock(6, subsample="before", rngs=nnx.Rngs(0)))
    arguments = (jnp.array([0]),) if method == "attention_rows" else ()
    with pytest.raises(InputError, match=re.escape(message)):
        getattr(block, method)(jnp.zeros(shape), *arguments)


def test_rows_of_a_position_that_does_not_exist(randomise):
    block = randomise(lambda: NonLocalBlock(6, rngs=nnx.Rngs(0)))
    x = video()
    for wrong in (-1, 60):
        with pytest.raises(InputError, match=f"positions: found {wrong} in an input .*, valid are 0 to 59"):
            block.attention_rows(x, jnp.array([59, wrong]))
    rows = jitted(block, "attention_rows")(x, jnp.array([59, 60]))
    assert np.isfinite(rows[:, 0]).all() and np.isnan(rows[:, 1]).all()


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_float16_holds_activations_of_100(pairwise, randomise):
    """The products of dot product and concatenation are above the largest float16. The block's output is not."""
    build = partial(NonLocalBlock, 64, pairwise=pairwise, norm="batch")
    blocks = [
        randomise(lambda dtype=dtype: build(dtype=dtype, rngs=nnx.Rngs(0))) for dtype in (jnp.float32, jnp.float16)
    ]
    x = 100 * video((2, 2, 4, 4, 64))
    expected, found = run(blocks[0], x), run(blocks[1], x.astype(jnp.float16))
    assert found.dtype == jnp.float16 and np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=2.0)
    rows = jitted(blocks[1], "attention_rows")(x.astype(jnp.float16), jnp.array([3]))
    assert np.isfinite(rows).all()


@pytest.mark.parametrize("shape, as_video", [((2, 5, 4), (1, 5, 4)), ((2, 7), (7, 1, 1))], ids=["image", "sequence"])
@pytest.mark.parametrize("subsample", [None, "before", "after"])
@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_rows_of_images_and_sequences_equal_the_formula(pairwise, subsample, shape, as_video, randomise):
    block = randomise(lambda: NonLocalBlock(CHANNELS, pairwise=pairwise, subsample=subsample, rngs=nnx.Rngs(0)))
    x = video((*shape, CHANNELS))
    expected = [_rows_of_clip(block, pairwise, subsample, clip.reshape(*as_video, CHANNELS)) for clip in x]
    found = jitted(block, "attention_rows")(x, jnp.arange(np.prod(shape[1:])))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.prod(block.key_shape(x.shape)) == found.shape[2]


def _rows_of_clip(block, pairwise, subsample, clip):
    return Reference(block, pairwise, "spacetime", subsample, 1.0)(clip)[0][0]


@pytest.fixture(scope="module")
def bricks(torch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("mmcv.cnn.bricks")


@pytest.mark.parametrize("sub_sample", [False, True])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    "mode, use_scale",
    [
        ("gaussian", True),  # mmcv does not scale the Gaussian
        ("embedded_gaussian", True),
        ("embedded_gaussian", False),
        ("dot_product", False),
        ("concatenation", False),
    ],
)
def test_parity_with_mmcv(mode, use_scale, axes, sub_sample, torch, bricks):
    torch.manual_seed(0)
    norm = "none" if axes == 1 else "batch"  # with a norm, mmcv's W_z has no bias
    norm_cfg = None if norm == "none" else {"type": f"BN{axes}d"}
    make = getattr(bricks, f"NonLocal{axes}d")
    theirs = make(CHANNELS, sub_sample=sub_sample, mode=mode, use_scale=use_scale, norm_cfg=norm_cfg).eval()
    for name, value in [*theirs.named_parameters(), *theirs.named_buffers()]:
        if value.is_floating_point():
            new = torch.rand_like(value) + 0.5 if "var" in name else torch.randn_like(value) / 2
            value.data.copy_(new)

    ours = NonLocalBlock(
        CHANNELS,
        pairwise=mode,
        subsample="after" if sub_sample else None,
        scale="rsqrt_d" if use_scale and mode == "embedded_gaussian" else None,
        norm=norm,
        out_bias=norm == "none",
        rngs=nnx.Rngs(0),
    )
    ours.eval()
    weights = {name.replace(".0.", "."): value.numpy() for name, value in theirs.state_dict().items()}
    taken = set()

    def copy(variable, name):
        taken.add(name)
        value = weights[name]
        variable[...] = value.reshape(value.shape[:2]).T if value.ndim > 1 else value

    names = {"g": "g", "theta": "theta", "phi": "phi", "w_z": "conv_out", "w_f": "concat_project"}
    for layer, name in names.items():
        if hasattr(ours, layer):
            copy(getattr(ours, layer).kernel, f"{name}.conv.weight")
            if getattr(ours, layer).bias is not None:
                copy(getattr(ours, layer).bias, f"{name}.conv.bias")
    if norm == "batch":
        for variable, name in (("scale", "weight"), ("bias", "bias"), ("mean", "running_mean"), ("var", "running_var")):
            copy(getattr(ours.norm, variable), f"conv_out.bn.{name}")
    assert taken == {name for name in weights if not name.endswith("num_batches_tracked")}

    x = video((2, *(3, 5, 4)[3 - axes :], CHANNELS) if axes > 1 else (2, 7, CHANNELS))
    with torch.no_grad():
        expected = theirs(torch.tensor(np.moveaxis(np.array(x), -1, 1))).numpy()
    assert np.abs(np.moveaxis(expected, 1, -1) - x).max() > 0.1  # the block does something
    np.testing.assert_allclose(run(ours, x), np.moveaxis(expected, 1, -1), atol=1e-5)


def started(**options):
    """Returns z of a new block for x, x itself, and the parameters of the block that have a gradient."""
    block = NonLocalBlock(CHANNELS, **options, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(block, nnx.Param, ...)
    x, weights = video(), video(seed=1)

    @jax.jit
    def output_and_gradients(params):
        def loss(params):
            z = nnx.merge(graph, params, rest, copy=True)(x)
            return (z * weights).sum(), z

        gradients, z = jax.grad(loss, has_aux=True)(params)
        return z, gradients

    z, gradients = output_and_gradients(params)
    return z, x, {path for path, g in nnx.to_flat_state(gradients) if np.any(g[...] != 0)}


@pytest.mark.parametrize("norm, first", [("batch", "norm"), ("affine", "norm"), ("none", "w_z")])
def test_a_new_block_is_the_identity_and_learns(norm, first):
    z, x, moves = started(norm=norm)
    np.testing.assert_array_equal(z, x)
    # The array of zeros learns first. The arrays behind it get a gradient once the zeros have moved.
    zeros = "kernel" if first == "w_z" else "scale"
    assert moves == {(first, zeros), (first, "bias")}


def test_a_block_whose_norm_has_a_scale_learns_with_all_layers_at_once():
    z, x, moves = started(norm="batch", norm_scale=0.5)
    change = np.asarray(z - x)
    np.testing.assert_allclose(change.std(axis=tuple(range(change.ndim - 1))), 0.5, rtol=1e-2)
    assert {(layer, "kernel") for layer in ("theta", "phi", "g", "w_z")} < moves
    with pytest.raises(InputError, match=r"norm_scale=0\.5 is the scale of a norm, and norm='none' has none"):
        NonLocalBlock(CHANNELS, norm="none", norm_scale=0.5, rngs=nnx.Rngs(0))


def test_space_and_time_are_loops_over_frames_and_places(randomise):
    def block(axes):
        return jitted(randomise(lambda: NonLocalBlock(CHANNELS, axes=axes, norm="none", rngs=nnx.Rngs(0))))

    spacetime, space, time = block("spacetime"), block("space"), block("time")
    x = np.array(video())
    frames = [spacetime(x[:, t]) for t in range(x.shape[1])]
    np.testing.assert_allclose(space(x), np.stack(frames, axis=1), atol=1e-5)
    np.testing.assert_allclose(space(x[:, 0]), frames[0], atol=1e-5)
    places = [[spacetime(x[:, :, i, j]) for j in range(x.shape[3])] for i in range(x.shape[2])]
    np.testing.assert_allclose(time(x), np.array(places).transpose(2, 3, 0, 1, 4), atol=1e-5)
    np.testing.assert_allclose(time(x[:, :, 0, 0]), places[0][0], atol=1e-5)


@pytest.mark.parametrize("subsample", [None, "before", "after"])
def test_images_are_videos_of_one_frame(subsample, randomise):
    block = randomise(lambda: NonLocalBlock(CHANNELS, subsample=subsample, norm="none", rngs=nnx.Rngs(0)))
    x = video()[:, 0]
    np.testing.assert_allclose(run(block, x), run(block, x[:, None])[:, 0], atol=1e-6)


def test_a_sequence_is_subsampled_over_time(randomise):
    block = randomise(lambda: NonLocalBlock(CHANNELS, subsample="before", norm="none", rngs=nnx.Rngs(0)))
    x = video((2, 7, CHANNELS))
    as_image = x[:, None, :, :].repeat(2, axis=1)  # two equal rows: pooling merges them, the sum over keys is the same
    np.testing.assert_allclose(run(block, x), run(block, as_image)[:, 0], atol=1e-6)
    assert block.key_shape(x.shape) == (3,)


@pytest.mark.parametrize(
    "options, shape, keys",
    [
        ({}, (2, 4, 6, 8, CHANNELS), (4, 6, 8)),
        ({"subsample": "after"}, (2, 4, 6, 8, CHANNELS), (4, 3, 4)),
        ({"axes": "space", "subsample": "before"}, (2, 4, 6, 8, CHANNELS), (3, 4)),
        ({"axes": "space", "subsample": "before"}, (2, 6, 8, CHANNELS), (3, 4)),
        ({"axes": "time"}, (2, 4, 6, 8, CHANNELS), (4,)),
        ({"subsample": "after"}, (2, 9, CHANNELS), (4,)),
    ],
)
def test_key_shape(options, shape, keys):
    assert NonLocalBlock(CHANNELS, **options, rngs=nnx.Rngs(0)).key_shape(shape) == keys


def test_sizes_biases_and_starts():
    def block(**options):
        return NonLocalBlock(64, **options, rngs=nnx.Rngs(0))

    assert block().theta.kernel.shape == (64, 32)
    assert block(inner_channels=8).w_z.kernel.shape == (8, 64)
    assert NonLocalBlock(1, rngs=nnx.Rngs(0)).g.kernel.shape == (1, 1)
    assert block(bias=False).g.bias is None and block(bias=False).w_z.bias is not None
    assert block(out_bias=False).w_z.bias is None
    assert not hasattr(block(pairwise="gaussian"), "theta")
    np.testing.assert_allclose(block(init="he").theta.kernel[...].std(), np.sqrt(2 / 64), rtol=0.05)
    np.testing.assert_allclose(block(init="normal").theta.kernel[...].std(), 0.01, rtol=0.05)
    assert block(scale="rsqrt_d").scale == pytest.approx(32**-0.5)
    assert block(scale="rsqrt_d", pairwise="gaussian").scale == pytest.approx(64**-0.5)


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters(pairwise, randomise):
    def block(dtype):
        block = randomise(lambda: NonLocalBlock(CHANNELS, pairwise=pairwise, dtype=dtype, rngs=nnx.Rngs(0)))
        block.eval()
        return block

    x = video().astype(jnp.bfloat16)
    z = run(block(jnp.bfloat16), x)
    assert z.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(block(jnp.bfloat16)))} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(z.astype(jnp.float32), run(block(jnp.float32), x.astype(jnp.float32)), atol=0.1)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"pairwise": "embeded"}, "pairwise='embeded' is unknown; choose one of gaussian, embedded_gaussian, dot_pro"),
        ({"axes": "width"}, "axes='width' is unknown; choose one of spacetime, space, time"),
        ({"subsample": "max"}, "subsample='max' is unknown; choose one of None, before, after"),
        ({"scale": "sqrt"}, "scale='sqrt' is unknown; choose a number, None or 'rsqrt_d'"),
        ({"norm": "layer"}, "norm='layer' is unknown; choose one of batch, global, affine, frozen, none"),
        ({"init": "zero"}, "init='zero' is unknown; choose one of he, normal"),
        ({"axes": "time", "subsample": "after"}, "subsample='after' pools over space, where axes='time'"),
        ({"inner_channels": 0}, "inner_channels=0 is out of range; choose 1 or more"),
        ({"group_size": 0}, "group_size=0 is out of range; choose 1 or more"),
        ({"scale": float("nan")}, "scale=nan is out of range; choose a finite number"),
        ({"dtype": "int32"}, "dtype='int32' is unknown; choose float32"),
        ({"dtype": "float31"}, "dtype='float31' is unknown; choose float32"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        NonLocalBlock(CHANNELS, **options, rngs=nnx.Rngs(0))


def test_a_mask_that_is_not_bool():
    block = nnx.eval_shape(lambda: NonLocalBlock(CHANNELS, rngs=nnx.Rngs(0)))
    mask = jnp.full(SHAPE[:-1], 255, jnp.uint8)
    with pytest.raises(InputError, match="valid has dtype uint8: give truth values"):
        inspect.unwrap(NonLocalBlock.__call__)(block, video(), mask)
    with pytest.raises(InputError, match="valid has dtype uint8: give truth values"):
        inspect.unwrap(NonLocalBlock.attention_rows)(block, video(), jnp.array([0]), mask)


@pytest.mark.parametrize("positions, found", [(0, "()"), ([[0, 1]], "(1, 2)"), ([0.5], "(1,)"), ([True], "(1,)")])
def test_rows_of_positions_that_are_no_positions(positions, found):
    block = nnx.eval_shape(lambda: NonLocalBlock(CHANNELS, rngs=nnx.Rngs(0)))
    with pytest.raises(InputError, match=re.escape(f"of shape {found}, valid are integers of shape (q,)")):
        inspect.unwrap(NonLocalBlock.attention_rows)(block, video(), jnp.asarray(positions))


def test_two_blocks_have_one_structure_and_can_be_pickled(randomise):
    one, two = (randomise(lambda: NonLocalBlock(CHANNELS, rngs=nnx.Rngs(0))) for _ in range(2))
    assert nnx.graphdef(one) == nnx.graphdef(two)  # else `nnx.jit` compiles once for each block
    mean = jax.tree.map(lambda a, b: (a + b) / 2, one, pickle.loads(pickle.dumps(two)))
    one.eval(), mean.eval()
    np.testing.assert_allclose(run(mean, video()), run(one, video()), atol=1e-6)


def test_a_view_for_tests_uses_the_running_statistics(randomise):
    block = randomise(lambda: NonLocalBlock(CHANNELS, rngs=nnx.Rngs(0)))
    tested = nnx.view(block, use_running_average=True)
    block.eval()
    np.testing.assert_array_equal(run(tested, video()), run(block, video()))


def test_a_block_in_bfloat16_keeps_its_types():
    block = jax.tree.map(lambda a: a.astype(jnp.bfloat16), NonLocalBlock(CHANNELS, rngs=nnx.Rngs(0)))
    with jax.numpy_dtype_promotion("standard"):  # as users have it
        nnx.jit(lambda block, x: block(x))(block, video())
    assert block.norm.mean.dtype == block.norm.var.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "axes, shape, message",
    [
        ("time", (2, 4, 4, CHANNELS), "axes='time' cannot be summed over in images (b,h,w,c) of shape (2, 4, 4, 6)"),
        ("space", (2, 4, CHANNELS), "axes='space' cannot be summed over in a sequence (b,t,c) of shape (2, 4, 6)"),
        ("spacetime", (2, CHANNELS), "not shape (2, 6)"),
        ("spacetime", (2, 3, 4, 4, 4, CHANNELS), "not shape (2, 3, 4, 4, 4, 6)"),
    ],
)
def test_bad_shapes(axes, shape, message):
    with pytest.raises(InputError, match=re.escape(message)):
        NonLocalBlock(CHANNELS, axes=axes, rngs=nnx.Rngs(0))(jnp.zeros(shape))


@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.parametrize("subsample", [None, "before", "after"])
def test_time_groups_are_clips_of_their_own(randomise, pairwise, subsample):
    def build(time_group=None):
        return NonLocalBlock(CHANNELS, pairwise=pairwise, subsample=subsample, time_group=time_group, rngs=nnx.Rngs(0))

    grouped, whole = (randomise(lambda group=group: build(group)) for group in (2, None))
    grouped.eval()
    whole.eval()
    x = video((2, 6, 4, 4, CHANNELS))
    parts = [run(whole, x[:, start : start + 2]) for start in (0, 2, 4)]
    np.testing.assert_allclose(run(grouped, x), np.concatenate(parts, axis=1), rtol=1e-5, atol=1e-5)
    keys = 2 * (16 if subsample is None else 4)
    rows = jitted(grouped, "attention_rows")(x, jnp.arange(2))
    assert rows.shape == (6, 2, keys) and np.prod(grouped.key_shape(x.shape)) == keys


@pytest.mark.parametrize(
    "options, shape, message",
    [
        ({"time_group": 4}, SHAPE, "time_group=4 does not divide the frames of an input of shape (2, 3, 5, 4, 6)"),
        ({"time_group": 2}, (2, 4, 6), "time_group=2 does not divide"),
        ({"time_group": 2, "axes": "space"}, SHAPE, "time_group=2 with axes='space': choose"),
    ],
)
def test_time_groups_that_do_not_fit(options, shape, message):
    with pytest.raises(InputError, match=re.escape(message)):
        NonLocalBlock(CHANNELS, **options, rngs=nnx.Rngs(0))(video(shape))
