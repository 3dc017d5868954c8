"""relu equals max(x, 0) in value and gradient, and keeps values that are not a number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nl_jax.ops import fusion
from nl_jax.ops.relu import relu


@pytest.fixture(autouse=True, params=[False, True], ids=["one device", "partitioned"])
def _devices(request, monkeypatch):
    monkeypatch.setattr(fusion, "partitioned", lambda: request.param)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_value_and_gradient(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)), dtype)
    y, gradient = jax.jit(lambda x: jax.vjp(relu, x)[0])(x), jax.jit(jax.grad(lambda x: (relu(x) ** 2).sum()))(x)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    np.testing.assert_array_equal(gradient, 2 * np.maximum(x, 0))


def test_the_gradient_at_zero_is_zero():
    np.testing.assert_array_equal(jax.grad(lambda x: relu(x).sum())(jnp.zeros(3)), 0)


@pytest.mark.parametrize("at", [0, 3])
def test_what_is_not_a_number_stays_so_and_the_program_ends(at):
    x = jnp.arange(5.0).at[at].set(jnp.nan)
    np.testing.assert_array_equal(jax.jit(relu)(x), x)  # and no other value becomes NaN
