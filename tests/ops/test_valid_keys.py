"""A mask of keys gives the same values and gradients, in every form, as removing the other keys."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from nl_jax.ops import attention, chunks, nonlocal_op

B, N, M, D, C = 3, 11, 9, 5, 3
VALID = np.array([[1, 0, 1, 1, 0, 0, 1, 1, 0], [1] * 9, [0] * 9], bool)  # some keys, all of them, none
FORMS = {
    "gaussian": (nonlocal_op.gaussian, "chunked"),
    "dot product": (nonlocal_op.dot_product, None),
    "sorted": (nonlocal_op.concatenation, "sorted"),
    "blockwise": (nonlocal_op.concatenation, "blockwise"),
}


def arguments(operation, n=N, m=M, d=D, c=C):
    rng = np.random.default_rng(0)
    shapes = [(B, n), (B, m)] if operation is nonlocal_op.concatenation else [(B, n, d), (B, m, d)]
    return [rng.normal(size=shape).astype(np.float32) for shape in (*shapes, (B, m, c))]


def pairs(operation, q, k):
    """Returns f(x_i, x_j) of one item, one pair at a time, in float64."""
    q, k = np.asarray(q, np.float64), np.asarray(k, np.float64)
    if operation is nonlocal_op.concatenation:
        return np.array([[max(a + p, 0) for p in k] for a in q])
    scores = np.array([[theta @ phi for phi in k] for theta in q])
    return np.exp(scores) if operation is nonlocal_op.gaussian else scores


def expected_rows(operation, q, k, valid):
    """Returns f / C(x), with 0 for the masked keys."""
    rows = np.zeros((*q.shape[:2], k.shape[1]))
    for b in range(len(q)):
        if valid[b].any():
            f = pairs(operation, q[b], k[b][valid[b]])
            total = f.sum(1, keepdims=True) if operation is nonlocal_op.gaussian else valid[b].sum()
            rows[b][:, valid[b]] = f / total
    return rows


def left_out(operation, q, k, g, valid):
    """Computes the same function from the valid keys of every item alone, for gradients."""
    result = []
    for b in range(len(q)):
        keep = np.flatnonzero(valid[b])
        if not keep.size:
            result.append(jnp.zeros((q.shape[1], g.shape[2]), g.dtype))
            continue
        if operation is nonlocal_op.concatenation:
            rows = jnp.maximum(q[b][:, None] + k[b][keep][None], 0) / keep.size
        else:
            scores = q[b] @ k[b][keep].T
            rows = jax.nn.softmax(scores) if operation is nonlocal_op.gaussian else scores / keep.size
        result.append(rows @ g[b][keep])
    return jnp.stack(result)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "MAX_PAIRS", M * 4)
    monkeypatch.setattr(chunks, "MIN_CHUNK", 1)
    monkeypatch.setattr(chunks, "CHUNK_MULTIPLE", 2)


@pytest.mark.parametrize(
    "shape", [(N, M, D, C), (2, M, 40, 30)], ids=["many queries", "wide"]
)  # both orders of products
@pytest.mark.parametrize("name", FORMS)
def test_values_and_gradients_are_those_of_the_valid_keys(name, shape):
    operation, form = FORMS[name]
    q, k, g = arguments(operation, *shape)
    if operation is not nonlocal_op.concatenation:
        q = 0.3 * q
    expected = expected_rows(operation, q, k, VALID) @ g.astype(np.float64)
    weights = np.random.default_rng(1).normal(size=expected.shape).astype(np.float32)
    with jax.enable_x64(True):
        wide = [jnp.asarray(x, jnp.float64) for x in (q, k, g)]
        loss = lambda *a: (left_out(operation, *a, VALID) * weights.astype(np.float64)).sum()  # noqa: E731
        gradients = jax.grad(loss, argnums=(0, 1, 2))(*wide)

    k[~VALID], g[~VALID] = np.inf, np.nan  # these keys must not be read
    options = {"valid": jnp.asarray(VALID)} | ({"form": form} if form else {})
    y, pull = jax.vjp(jax.jit(partial(operation, **options)), *map(jnp.asarray, (q, k, g)))
    np.testing.assert_allclose(y, expected, atol=2e-5)
    for which, found, value in zip("qkg", pull(jnp.asarray(weights)), gradients, strict=True):
        np.testing.assert_allclose(found, value, atol=2e-5, err_msg=which)


@pytest.mark.parametrize("function", ["gaussian", "dot_product", "concatenation"])
def test_rows(function):
    operation = getattr(nonlocal_op, function)
    q, k, _ = arguments(operation)
    expected = expected_rows(operation, q, k, VALID)
    k[~VALID] = np.nan if function != "concatenation" else np.inf
    rows = getattr(nonlocal_op, f"{function}_rows")(jnp.asarray(q), jnp.asarray(k), valid=jnp.asarray(VALID))
    np.testing.assert_allclose(rows, expected, atol=1e-6)


def value_and_gradients(form, args, valid):
    y, pull = jax.vjp(lambda *a: attention.attention(*a, 0.1, form, valid), *args)
    return y, *pull(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))


def test_pallas_equals_chunked(monkeypatch):
    """Runs JAX's TPU kernel in interpret mode."""
    monkeypatch.setattr(attention, "BLOCK", 128)
    rng = np.random.default_rng(0)
    args = [jnp.asarray(rng.normal(size=(3, size, 128)), jnp.float32) for size in (150, 200, 200)]
    valid = jnp.asarray(np.stack([rng.random(200) < 0.5, np.ones(200, bool), np.zeros(200, bool)]))
    with pltpu.force_tpu_interpret_mode():
        found = value_and_gradients("pallas", args, valid)
    for ours, theirs in zip(found, value_and_gradients("chunked", args, valid), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_cudnn_is_asked_for_the_same_function(monkeypatch):
    """cuDNN gets the number of valid keys.

    The reference implementation of its entry in JAX takes the same arguments.
    """
    entry = jax.nn.dot_product_attention

    def stand_in(*args, implementation, **options):
        assert implementation == "cudnn"
        return entry(*args, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    args = [jnp.asarray(x) for x in arguments(nonlocal_op.gaussian, d=16, c=16)]
    found = value_and_gradients("cudnn", args, jnp.asarray(VALID))
    for ours, theirs in zip(found, value_and_gradients("chunked", args, jnp.asarray(VALID)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("function", ["gaussian", "dot_product", "concatenation"])
def test_a_mask_of_another_shape(function):
    operation = inspect.unwrap(getattr(nonlocal_op, function))
    with pytest.raises(ValueError, match=r"valid \(3, 5\) must be \(b,m\), here \(3, 9\)"):
        operation(*map(jnp.asarray, arguments(getattr(nonlocal_op, function))), valid=jnp.ones((3, 5), bool))


@pytest.mark.parametrize("name", ["gaussian", "dot_product", "concatenation"])
def test_a_mask_that_is_not_bool(name):
    for operation in (getattr(nonlocal_op, name), getattr(nonlocal_op, f"{name}_rows")):
        operation = inspect.unwrap(operation)
        arrays = [jnp.zeros((3, 9, 4)) for _ in range(2)]
        if name == "concatenation":
            arrays = [array[..., 0] for array in arrays]
        if not operation.__name__.endswith("_rows"):
            arrays.append(jnp.zeros((3, 9, 4)))
        with pytest.raises(ValueError, match="valid is uint8 and must be bool"):
            operation(*arrays, valid=jnp.full((3, 9), 255, jnp.uint8))


@pytest.mark.parametrize("name", ["gaussian", "sorted", "blockwise"])
def test_memory_stays_linear(name, monkeypatch):
    operation, form = FORMS[name]
    n = m = 2048
    monkeypatch.setattr(chunks, "MAX_PAIRS", 128 * m)
    shapes = [(1, n), (1, m)] if operation is nonlocal_op.concatenation else [(1, n, 8), (1, m, 8)]

    def step(q, k, g, valid):
        y, pull = jax.vjp(lambda *a: operation(*a, form=form, valid=valid), q, k, g)
        return y, *pull(y)

    sizes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (*shapes, (1, m, 8))]
    compiled = jax.jit(step).lower(*sizes, jax.ShapeDtypeStruct((1, m), jnp.bool_)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * n * m / 2
