"""Later blocks than the paper's against loops over positions in NumPy. A new block is the identity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import controls_after
from nl_jax.errors import InputError
from nl_jax.models import ResNetConfig, VideoResNet
from nl_jax.models.variants import VARIANTS, GlobalContext

SHAPE = (2, 2, 5, 3, 8)  # b, t, h, w, c
POSITIONS = (0, 7, 29)


def softmax(scores):
    weights = np.exp(np.asarray(scores) - np.max(scores))
    return weights / weights.sum()


class Loops:
    """The formulas of the papers, one position after another, for one item x (n,c)."""

    def __init__(self, block):
        self.block = block

    def linear(self, name, x):
        layer = getattr(self.block, name)
        bias = 0 if layer.bias is None else np.asarray(layer.bias[...], np.float64)
        return x @ np.asarray(layer.kernel[...], np.float64) + bias

    def context(self, x):
        return softmax(self.linear("w_k", x)[:, 0])

    def global_context(self, x):
        weights = self.context(x)
        v = self.linear("w_1", sum(weight * row for weight, row in zip(weights, x, strict=True)))
        v = (v - v.mean()) / np.sqrt(v.var() + 1e-6)
        norm = self.block.layer_norm
        v = np.maximum(v * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...]), 0)
        return [v for _ in x], [weights for _ in x]

    def simplified(self, x):
        weights = self.context(x)
        return [weights @ x for _ in x], [weights for _ in x]

    def disentangled(self, x):
        q, k, g = (self.linear(name, x) for name in ("theta", "phi", "g"))
        unary = softmax(self.linear("w_m", x)[:, 0])
        rows = []
        for q_i in q:
            scores = [self.block.scale * np.dot(q_i - q.mean(0), k_j - k.mean(0)) for k_j in k]
            rows.append(softmax(scores) + unary)
        return [row @ g for row in rows], rows

    def double_attention(self, x):
        a, b, v = (self.linear(name, x) for name in "abv")
        gathered = [softmax(b[:, k]) for k in range(b.shape[1])]
        rows = []
        for v_i in v:
            given = softmax(v_i)
            rows.append(sum(given[k] * gathered[k] for k in range(len(given))))
        return [row @ a for row in rows], rows

    def compact_generalized(self, x):
        theta, phi, g = (self.linear(name, x) for name in ("theta", "phi", "g"))
        d, groups = theta.shape[1], self.block.groups
        y = np.zeros_like(theta)
        for i in range(len(x)):
            for e in range(d):
                of = [f for f in range(d) if f * groups // d == e * groups // d]
                pairs = [theta[i, e] * phi[j, f] * g[j, f] for j in range(len(x)) for f in of]
                y[i, e] = sum(pairs) / len(pairs)
        return y, None

    def several_heads(self, x):
        theta, phi, g = (self.linear(name, x) for name in ("theta", "phi", "g"))
        heads, d = self.block.heads, theta.shape[1] // self.block.heads
        y, rows = [], []
        for theta_i in theta:
            parts = [slice(head * d, (head + 1) * d) for head in range(heads)]
            of = [softmax([self.block.scale * theta_i[p] @ phi_j[p] for phi_j in phi]) for p in parts]
            y.append(np.concatenate([row @ g[:, p] for row, p in zip(of, parts, strict=True)]))
            rows.append(np.mean(of, axis=0))
        return y, rows

    def pyramid_keys(self, x):
        theta, phi, g = (self.linear(name, x) for name in ("theta", "phi", "g"))
        t, h, w = SHAPE[1:4]

        def pooled(values):
            keys, frames = [], values.reshape(t, h, w, -1)
            for frame in frames:
                for size in self.block.sizes:
                    for i in range(size):
                        for j in range(size):
                            top, bottom = int(np.floor(i * h / size)), int(np.ceil((i + 1) * h / size))
                            left, right = int(np.floor(j * w / size)), int(np.ceil((j + 1) * w / size))
                            keys.append(frame[top:bottom, left:right].mean(axis=(0, 1)))
            return np.array(keys)

        phi, g = pooled(phi), pooled(g)
        rows = [softmax([self.block.scale * theta_i @ phi_j for phi_j in phi]) for theta_i in theta]
        return [row @ g for row in rows], rows


OPTIONS = {
    "compact_generalized": {"groups": 2},
    "several_heads": {"heads": 2, "scale": "rsqrt_d"},
    "pyramid_keys": {"sizes": (1, 2, 4)},
    "disentangled": {"scale": 0.5},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_block_is_the_loop_of_its_formula(name, randomise):
    block = randomise(lambda: VARIANTS[name](8, 4, rngs=nnx.Rngs(0), **OPTIONS.get(name, {})))
    block.eval()
    x = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    found, loops = np.asarray(jax.jit(lambda x: block(x))(jnp.asarray(x))), Loops(block)
    for item in range(len(x)):
        flat = x[item].reshape(-1, 8).astype(np.float64)
        y, rows = getattr(loops, name)(flat)
        z = loops.linear("w_z", np.array(y))
        if block.norm is not None:
            mean, var, scale, bias = (np.asarray(getattr(block.norm, n)[...]) for n in ("mean", "var", "scale", "bias"))
            z = (z - mean) / np.sqrt(var + 1e-5) * scale + bias
        np.testing.assert_allclose(found[item].reshape(-1, 8), flat + z, atol=1e-5)
        if rows is not None:
            of_block = block.attention_rows(jnp.asarray(x), jnp.asarray(POSITIONS))[item]
            np.testing.assert_allclose(of_block, np.array(rows)[list(POSITIONS)], atol=1e-5)
            assert of_block.shape[-1] == np.prod(block.key_shape(SHAPE))
    if rows is None:
        with pytest.raises(InputError, match="has no weight for a pair of positions"):
            block.attention_rows(jnp.asarray(x), jnp.asarray(POSITIONS))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_new_block_is_the_identity(name):
    block = VARIANTS[name](8, rngs=nnx.Rngs(0))
    block.eval()
    x = jnp.asarray(np.random.default_rng(0).normal(size=SHAPE), jnp.float32)
    z, image, sequence = jax.jit(lambda x: (block(x), block(x[:, 0]), block(x[:, 0, 0])))(x)
    np.testing.assert_array_equal(z, x)
    np.testing.assert_array_equal(image, x[:, 0])
    np.testing.assert_array_equal(sequence, x[:, 0, 0])
    without = VARIANTS[name](8, norm="none", rngs=nnx.Rngs(0))
    assert not without.w_z.kernel[...].any() and not without.w_z.bias[...].any() and without.norm is None


def test_a_context_can_scale(randomise):
    x = jnp.asarray(np.random.default_rng(0).normal(size=SHAPE), jnp.float32)
    new = GlobalContext(8, fusion="scale", rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(jax.jit(lambda x: new(x))(x), x)
    block, added = (
        randomise(lambda fusion=fusion: GlobalContext(8, 4, fusion=fusion, rngs=nnx.Rngs(0)))
        for fusion in ("scale", "add")
    )
    scaled, added = jax.jit(lambda x: (block(x), added(x)))(x)
    np.testing.assert_allclose(scaled, 2 / (1 + np.exp(x - added)) * x, atol=1e-5)


def test_a_network_has_them_in_the_place_of_its_blocks():
    config = ResNetConfig(
        blocks_per_stage=(1, 1),
        width=4,
        num_classes=3,
        geometry="caffe2_8",  # pools the keys of the paper's block, but not those of a variant
        nonlocal_blocks={"res3": (0,)},
        nonlocal_options={"variant": "global_context"},
    )
    config.check()
    model = nnx.eval_shape(lambda: VideoResNet(config, rngs=nnx.Rngs(0)))
    assert isinstance(model.nonlocal_blocks()["res3_0_nonlocal"], GlobalContext)
    for options, message in (
        ({"variant": "squeeze"}, "variant='squeeze' is unknown; choose one of global_context, simplified"),
        ({"variant": "simplified", "pairwise": "gaussian"}, "the variant simplified takes no pairwise"),
        ({"variant": "global_context", "norm": "affine"}, "the variant global_context takes no norm"),
        ({"variant": "simplified", "res3": {"time_group": 2}}, "the variant simplified takes no time_group"),
        ({"res3": {"variant": "simplified", "axes": "time"}}, "the variant simplified takes no axes"),
    ):
        wrong = ResNetConfig(**vars(config) | {"nonlocal_options": options})
        with pytest.raises(InputError, match=message):
            wrong.check()


def test_every_block_has_a_row():
    assert list(controls_after.ROWS) == ["baseline", "five_blocks", *VARIANTS]


def test_what_cannot_be_is_said():
    x = jnp.zeros(SHAPE)
    for name, options, message in (
        ("several_heads", {"heads": 3}, "heads=3 does not divide the 4 inner channels"),
        ("compact_generalized", {"groups": 3}, "groups=3 does not divide"),
        ("pyramid_keys", {"sizes": ()}, "must be numbers of 1 or more"),
        ("global_context", {"fusion": "sum"}, "choose add or scale"),
        ("disentangled", {"scale": "d"}, "scale='d' is unknown"),
        ("simplified", {"norm": "layer"}, "norm='layer' is unknown"),
    ):
        with pytest.raises(InputError, match=message):
            VARIANTS[name](8, rngs=nnx.Rngs(0), **options)
    with pytest.raises(InputError, match="valid is for the paper's block alone"):
        VARIANTS["simplified"](8, rngs=nnx.Rngs(0))(x, jnp.ones(SHAPE[:-1], bool))
    block = VARIANTS["disentangled"](8, rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match="valid is for the paper's block alone"):
        block.attention_rows(x, jnp.array([0]), jnp.ones(SHAPE[:-1], bool))
    with pytest.raises(InputError, match="positions: found 100000 in an input of shape"):
        block.attention_rows(x, jnp.array([100_000]))


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "compact_generalized"])
def test_a_position_that_does_not_exist_is_named(name):
    block, x = VARIANTS[name](8, 4, rngs=nnx.Rngs(0)), jnp.ones(SHAPE)
    for position in (-1, 30):
        with pytest.raises(InputError, match=rf"positions: found {position} in an input .*, valid are 0 to 29"):
            block.attention_rows(x, jnp.asarray([0, position]))
    rows = jax.jit(lambda x, positions: block.attention_rows(x, positions))(x, jnp.asarray([0, 30]))
    assert jnp.isfinite(rows[:, 0]).all() and jnp.isnan(rows[:, 1]).all()


@pytest.mark.parametrize("name", VARIANTS)
def test_float16_holds_large_activations(name, randomise):
    half, single = (
        randomise(lambda dtype=dtype: VARIANTS[name](8, 4, dtype=dtype, rngs=nnx.Rngs(0)))
        for dtype in (jnp.float16, jnp.float32)
    )
    x = 100 * jnp.asarray(np.random.default_rng(0).normal(size=SHAPE), jnp.float32)
    found, expected = half(x.astype(jnp.float16)), single(x)
    assert found.dtype == jnp.float16
    assert (jnp.isfinite(found) | (jnp.abs(expected) > 60_000)).all()
