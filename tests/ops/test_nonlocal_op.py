"""The non-local operation against the formulas of section 3.2, computed pair by pair in float64."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from nl_jax.ops import chunks, devices, hinge, nonlocal_op

B, N, M, D, C = 2, 11, 7, 5, 3
FUNCTIONS = ("gaussian", "dot_product", "concatenation")


def arguments(function, n=N, m=M, d=D, c=C, seed=0):
    """Returns queries, keys and values in float32."""
    rng = np.random.default_rng(seed)
    shapes = [(B, n), (B, m)] if function == "concatenation" else [(B, n, d), (B, m, d)]
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in (*shapes, (B, m, c))]


def pair_by_pair(function, q, k, g, scale=1.0):
    """Computes y_i = 1/C(x) sum_j f(x_i, x_j) g_j, one pair at a time."""
    q, k, g = (np.asarray(a, np.float64) for a in (q, k, g))
    y = np.zeros((*q.shape[:2], g.shape[2]))
    for b in range(q.shape[0]):
        for i in range(q.shape[1]):
            total = 0.0
            for j in range(k.shape[1]):
                if function == "gaussian":
                    f = np.exp(scale * q[b, i] @ k[b, j])
                    total += f
                else:
                    f = q[b, i] @ k[b, j] if function == "dot_product" else max(q[b, i] + k[b, j], 0)
                    total = k.shape[1]
                y[b, i] += f * g[b, j]
            y[b, i] /= total
    return y


def naive(function, q, k, g):
    """Computes the same from the whole n x m matrix, for gradients."""
    if function == "concatenation":
        rows = jnp.maximum(q[:, :, None] + k[:, None, :], 0) / k.shape[1]
    else:
        rows = jnp.einsum("bnd,bmd->bnm", q, k)
        rows = jax.nn.softmax(rows) if function == "gaussian" else rows / k.shape[1]
    return jnp.einsum("bnm,bmc->bnc", rows, g)


@pytest.fixture(params=["whole", "chunks", "sorted"])
def form(request, monkeypatch):
    """Select a form: pairs of all queries at once, pairs of a few queries, or concatenation by sorting.

    The dot product chooses its form by shape alone: see n_m below.
    """
    monkeypatch.setattr(chunks, "MAX_PAIRS", 2**24 if request.param == "whole" else M * 4)  # 11 = 4 + 4 + 3
    monkeypatch.setattr(chunks, "MIN_CHUNK", 1)
    monkeypatch.setattr(chunks, "CHUNK_MULTIPLE", 2)
    monkeypatch.setitem(hinge.MIN_SORTED_KEYS, "cpu", 1 if request.param == "sorted" else 10**9)
    return request.param


@pytest.mark.parametrize("function", FUNCTIONS)
def test_values_equal_the_double_loop(function, form):
    args = arguments(function)
    np.testing.assert_allclose(getattr(nonlocal_op, function)(*args), pair_by_pair(function, *args), atol=1e-6)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradients(function, form):
    args = arguments(function)
    weights = np.random.default_rng(1).normal(size=(B, N, C)).astype(np.float32)
    operation = getattr(nonlocal_op, function)
    ours = jax.jit(jax.grad(lambda *a: (operation(*a) * weights).sum(), argnums=(0, 1, 2)))(*args)
    with jax.enable_x64(True):
        args64 = [jnp.asarray(a, jnp.float64) for a in args]
        expected = jax.grad(lambda *a: (naive(function, *a) * weights.astype(np.float64)).sum(), argnums=(0, 1, 2))
        expected = expected(*args64)
    for name, gradient, reference in zip("qkg", ours, expected, strict=True):
        np.testing.assert_allclose(gradient, reference, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradients_numerically(function, form):
    q, k, g = arguments(function)
    if function == "concatenation":  # keep every sum 0.25 away from the hinge, where there is no derivative
        q, k = jnp.round(2 * q) / 2, jnp.round(2 * k) / 2 + 0.25
    operation = jax.jit(getattr(nonlocal_op, function))  # jit also accepts the NumPy arrays that check_grads makes
    check_grads(operation, (q, k, g), order=1, modes=("rev",), atol=1e-2, rtol=1e-2)


def test_gaussian_scale(form):
    args = arguments("gaussian")
    expected = pair_by_pair("gaussian", *args, scale=0.3)
    np.testing.assert_allclose(nonlocal_op.gaussian(*args, 0.3), expected, atol=1e-6)


@pytest.mark.parametrize("n, m", [(2, 3), (23, 29)])
def test_dot_product_takes_the_cheaper_form(n, m):
    args = arguments("dot_product", n, m)
    pairs, per_channel = f"[{B},{n},{m}]", f"[{B},{D},{C}]"
    jaxpr = str(jax.make_jaxpr(jax.grad(lambda *a: nonlocal_op.dot_product(*a).sum(), argnums=(0, 1, 2)))(*args))
    assert (pairs in jaxpr, per_channel in jaxpr) == ((n < 5), (n > 5))
    np.testing.assert_allclose(nonlocal_op.dot_product(*args), pair_by_pair("dot_product", *args), atol=1e-6)


def test_sorted_concatenation_forms_no_pairs():
    args = arguments("concatenation", n := 601, m := 523)
    gradient = jax.grad(lambda *a: nonlocal_op.concatenation(*a).sum(), argnums=(0, 1, 2))
    jaxpr = str(jax.make_jaxpr(gradient)(*args))
    assert "sort" in jaxpr
    assert not re.search(rf"\[({B},)?({n},{m}|{m},{n})[,\]]", jaxpr)


def test_blockwise_concatenation_forms_the_pairs_of_a_few_queries():
    args = arguments("concatenation", n := 12544, m := 3136)
    gradient = jax.grad(lambda *a: nonlocal_op.concatenation(*a, form="blockwise").sum(), argnums=(0, 1, 2))
    jaxpr = str(jax.make_jaxpr(gradient)(*args))
    sizes = [int(q) for q in re.findall(rf"\[{B},(\d+),{m}\]", jaxpr)]
    assert "sort" not in jaxpr and 128 <= max(sizes) <= n / 8


@pytest.mark.parametrize("platform, m, expected", [
    ("cpu", 511, "blockwise"), ("cpu", 512, "sorted"), ("cpu", 100_000, "sorted"),
    ("tpu", 12544, "blockwise"), ("tpu", 50176, "sorted"), ("gpu", 784, "blockwise"),
    ("gpu", 3136, "sorted"),
])  # fmt: skip
def test_form_of_concatenation(platform, m, expected):
    assert hinge.hinge_form(platform, m) == expected
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 64), (1, m), (1, m, 4))]
    with devices.compiling_for(platform, 1):
        jaxpr = str(jax.make_jaxpr(nonlocal_op.concatenation)(*shapes))
    assert ("sort" in jaxpr) == (expected == "sorted")


def test_unknown_form_of_concatenation():
    with pytest.raises(ValueError, match="form='flash' is unknown; choose one of pairs, sorted, blockwise"):
        nonlocal_op.concatenation(*arguments("concatenation"), form="flash")


def values(kind, size, rng):
    """Returns numbers for which sums of sums lose digits, each kind in its own way."""
    return {
        "normal": lambda: rng.normal(size=size),
        "positive": lambda: rng.uniform(0, 9, size),
        "mixed sizes": lambda: rng.normal(size=size) * 10 ** rng.uniform(-3, 4, size),
        "ties": lambda: rng.integers(-3, 4, size),
    }[kind]()


@pytest.mark.parametrize("of_g", ["normal", "positive", "mixed sizes"])
@pytest.mark.parametrize("of_a, of_p, offset", [
    ("normal", "normal", 0),
    ("normal", "normal", 1000),  # a_i + p_j is a small difference of large numbers
    ("mixed sizes", "mixed sizes", 0),
    ("positive", "positive", 0),
    ("ties", "ties", 0),
])  # fmt: skip
def test_sorted_concatenation_is_as_exact_as_pairs_over_many_positions(of_a, of_p, offset, of_g):
    """12544 keys in float32. The error is as small as that of a sum over pairs, relative to the sum without signs."""
    rng = np.random.default_rng(0)
    m, c = 12544, 3
    a, p = values(of_a, 300, rng) - offset, values(of_p, m, rng) + offset
    a, p, g = (np.asarray(x, np.float32) for x in (a, p, values(of_g, m * c, rng).reshape(m, c)))
    dy = np.asarray(values(of_g, 300 * c, rng).reshape(300, c), np.float32)
    y, pull = jax.vjp(jax.jit(nonlocal_op.concatenation), a[None], p[None], g[None])
    found = [y, *pull(dy[None])]

    a, p, g, dy = (x.astype(np.float64) for x in (a, p, g, dy))
    sums = a[:, None] + p
    rows, active = np.maximum(sums, 0) / m, (sums > 0) / m

    def formulas(g, dy):  # y, da, dp, dg
        return rows @ g, (active @ g * dy).sum(1), (active.T @ dy * g).sum(1), rows.T @ dy

    names = ("y", "da", "dp", "dg")
    for name, ours, exact, size in zip(names, found, formulas(g, dy), formulas(abs(g), abs(dy)), strict=True):
        assert np.all(np.abs(ours[0] - exact) <= 1e-6 * size), name


@pytest.mark.parametrize("sign", [-1, 1])
def test_sorted_concatenation_where_all_sums_have_one_sign(sign):
    a, p, g = (jnp.abs(x) for x in arguments("concatenation", n=40, m=600))
    y = nonlocal_op.concatenation(sign * a, sign * p, g)
    np.testing.assert_allclose(y, pair_by_pair("concatenation", sign * a, sign * p, g), rtol=2e-6)
    assert np.all(y == 0) == (sign < 0)


@pytest.mark.parametrize(
    "case, a, p",
    [
        ("ties", [-1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, -1.0, 1.0]),  # equal keys, and sums of exactly 0
        ("all positive", [1.0, 2.0, 3.0], [0.5, 0.25, 4.0]),
        ("all negative", [-1.0, -2.0, -3.0], [-0.5, -0.25, -4.0]),
        ("one key", [-1.0, 2.0], [0.5]),
    ],
)
def test_concatenation_at_the_edges(case, a, p, form):
    a, p = (jnp.array([values], jnp.float32) for values in (a, p))
    g = jnp.asarray(np.random.default_rng(0).normal(size=(1, p.shape[1], C)), jnp.float32)
    np.testing.assert_allclose(nonlocal_op.concatenation(a, p, g), pair_by_pair("concatenation", a, p, g), atol=1e-6)

    # At a sum of exactly 0 the derivative of the hinge is 0, like the derivative of jax.nn.relu.
    def gradients(operation):
        return jax.jit(jax.grad(lambda *args: (operation(*args) ** 2).sum(), argnums=(0, 1, 2)))(a, p, g)

    expected = gradients(lambda a, p, g: jax.nn.relu(a[:, :, None] + p[:, None, :]) @ g / p.shape[1])
    for ours, theirs in zip(gradients(nonlocal_op.concatenation), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=1e-6, err_msg=case)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_bfloat16_inputs(function, form):
    args = [a.astype(jnp.bfloat16) for a in arguments(function)]

    @jax.jit
    def value_and_gradients(*args):
        y, pull = jax.vjp(getattr(nonlocal_op, function), *args)
        return y, *pull(jnp.ones_like(y))

    y, *gradients = value_and_gradients(*args)
    assert {a.dtype for a in (y, *gradients)} == {jnp.dtype(jnp.bfloat16)}
    expected = pair_by_pair(function, *(a.astype(jnp.float32) for a in args))
    np.testing.assert_allclose(y.astype(jnp.float32), expected, atol=0.02)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_rows_are_float32_and_reproduce_the_operation(function):
    q, k, g = arguments(function)
    rows = getattr(nonlocal_op, f"{function}_rows")(q, k)
    np.testing.assert_allclose(rows @ g, pair_by_pair(function, q, k, g), atol=1e-6)
    assert getattr(nonlocal_op, f"{function}_rows")(jnp.bfloat16(q), jnp.bfloat16(k)).dtype == jnp.float32


def test_gaussian_rows_sum_to_one():
    q, k, _ = arguments("gaussian", m=300)
    rows = nonlocal_op.gaussian_rows(jnp.bfloat16(100 * q), jnp.bfloat16(k))  # a sum in bfloat16 would not give 1
    np.testing.assert_allclose(rows.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "function, shapes",
    [
        ("gaussian", [(2, 5, 4), (2, 6, 3), (2, 6, 4)]),
        ("gaussian", [(2, 5, 4), (3, 6, 4), (3, 6, 4)]),
        ("dot_product", [(2, 5, 4), (2, 6, 4), (2, 5, 4)]),
        ("dot_product", [(2, 5, 4), (2, 0, 4), (2, 0, 4)]),
        ("concatenation", [(2, 5), (2, 6), (2, 5, 4)]),
        ("concatenation", [(2, 5), (3, 6), (3, 6, 4)]),
    ],
)
def test_shapes_that_do_not_fit(function, shapes):
    # The function as a user calls it, without the run-time check of annotations, which only tests have.
    operation = inspect.unwrap(getattr(nonlocal_op, function))
    names = "a p g" if function == "concatenation" else "theta phi g"
    found = ".*".join(f"{name} {re.escape(str(shape))}" for name, shape in zip(names.split(), shapes, strict=True))
    with pytest.raises(ValueError, match=found):
        operation(*(jnp.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_forward_mode(function):
    """Compares jvp with the transposed product of reverse mode, and jax.hessian with reverse over reverse mode."""
    args = arguments(function, n=3, m=2, d=2, c=2)
    options = {} if function == "dot_product" else {"form": "pairs"}
    operation = getattr(nonlocal_op, function)
    found, along = jax.jvp(lambda *a: operation(*a, **options), args, [0.5 * a + 1 for a in args])
    y, transposed = jax.vjp(operation, *args)
    np.testing.assert_allclose(found, y, atol=1e-6)
    weights = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    back = sum((g * (0.5 * a + 1)).sum() for g, a in zip(transposed(weights), args, strict=True))
    np.testing.assert_allclose((along * weights).sum(), back, rtol=1e-4)
    ours = jax.hessian(lambda theta: (operation(theta, *args[1:], **options) ** 2).sum())(args[0])
    reverse = jax.jacrev(jax.grad(lambda theta: (operation(theta, *args[1:]) ** 2).sum()))(args[0])
    np.testing.assert_allclose(ours, reverse, atol=1e-4)
    assert np.abs(ours).max() > 0.1


def test_float16_rows_beyond_its_largest_number():
    """theta . phi is 640000, but the sum is small. Sums of 16-bit arrays are float32."""
    theta, phi = jnp.full((1, 1, 64), 100, jnp.float16), jnp.full((1, 2, 64), 100, jnp.float16)
    g = jnp.full((1, 2, 3), 0.01, jnp.float16)
    np.testing.assert_allclose(nonlocal_op.dot_product(theta, phi, g), np.full((1, 1, 3), 6400.0), rtol=1e-2)


@pytest.mark.parametrize("dtype, tolerance", [(jnp.bfloat16, 0.01), (jnp.float16, 0.001), (jnp.float32, 1e-6)])
def test_the_dot_product_on_a_gpu_rounds_its_sum_to_bfloat16_at_most(dtype, tolerance):
    """In float16 the sum may be larger than the largest number of this type."""
    args = [40 * jnp.asarray(x, dtype) for x in arguments("dot_product", 64, 48)]
    with devices.compiling_for("gpu", 1):
        y = nonlocal_op.dot_product(*args)
    expected = pair_by_pair("dot_product", *(np.asarray(x, np.float64) for x in args))
    finite = np.abs(expected) < 6e4
    assert y.dtype == dtype and finite.any()
    error = np.linalg.norm(np.asarray(y, np.float64)[finite] - expected[finite]) / np.linalg.norm(expected[finite])
    assert error < tolerance
