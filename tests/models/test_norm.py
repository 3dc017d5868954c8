"""Normalisation: the source of its statistics, and its update of the running statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nl_jax.errors import InputError
from nl_jax.models.norm import Norm

CHANNELS = 3


def clips(count=4, offset=2.0):
    """Returns clips (b,t,h,w,c) with different means and spreads."""
    rng = np.random.default_rng(0)
    spread = 1 + np.arange(count).reshape(-1, 1, 1, 1, 1)
    return jnp.asarray(offset + spread * rng.normal(size=(count, 2, 3, 4, CHANNELS)) + spread, jnp.float32)


def normalized(x, norm, mean, var):
    scale, bias, mean, var = (np.asarray(a, np.float64) for a in (norm.scale[...], norm.bias[...], mean, var))
    return (np.asarray(x, np.float64) - mean) / np.sqrt(var + 1e-5) * scale + bias


@pytest.mark.parametrize(
    "kind, group_size, groups",
    [("batch", 2, [slice(0, 2), slice(2, 4)]), ("batch", 8, [slice(0, 4)]), ("global", 2, [slice(0, 4)])],
)
def test_training_statistics(kind, group_size, groups, randomise):
    norm = randomise(lambda: Norm(CHANNELS, kind=kind, group_size=group_size))
    before = {"mean": np.array(norm.mean[...]), "var": np.array(norm.var[...])}
    x = clips()
    y = norm(x)

    axes = (0, 1, 2, 3)
    for group in groups:
        expected = normalized(x[group], norm, np.mean(x[group], axes), np.var(x[group], axes))
        np.testing.assert_allclose(y[group], expected, atol=2e-5)
    # The running statistics follow the whole batch, whatever the groups, with momentum 0.9.
    np.testing.assert_allclose(norm.mean[...], 0.9 * before["mean"] + 0.1 * np.mean(x, axes), rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.9 * before["var"] + 0.1 * np.var(x, axes), rtol=1e-4)


def test_group_that_does_not_divide():
    with pytest.raises(InputError, match=r"6 clips .* groups of 4"):
        Norm(CHANNELS, group_size=4)(clips(6))


def test_unknown_kind():
    with pytest.raises(InputError, match=r"norm='layer' .*batch, global, affine, frozen"):
        Norm(CHANNELS, kind="layer")


@pytest.mark.parametrize("kind", ["batch", "global", "frozen"])
def test_evaluation_uses_the_running_statistics(kind, randomise):
    norm = randomise(lambda: Norm(CHANNELS, kind=kind, group_size=4))
    norm.eval()
    mean, var = np.array(norm.mean[...]), np.array(norm.var[...])
    x = clips(6)  # does not divide into groups of 4, which matters only in training
    np.testing.assert_allclose(norm(x), normalized(x, norm, mean, var), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(norm.mean[...], mean)
    np.testing.assert_array_equal(norm.var[...], var)
    norm.train()
    assert np.allclose(norm(x[:4]), normalized(x[:4], norm, mean, var), atol=1e-3) == (kind == "frozen")


def gradients(norm, x):
    graph, params, rest = nnx.split(norm, nnx.Param, ...)
    return jax.grad(lambda params, x: (nnx.merge(graph, params, rest, copy=True)(x) ** 2).sum(), argnums=(0, 1))(
        params, x
    )


def test_frozen_gets_no_gradient_and_does_not_move(randomise):
    norm = randomise(lambda: Norm(CHANNELS, kind="frozen"))
    mean, var = np.array(norm.mean[...]), np.array(norm.var[...])
    of_params, of_x = gradients(norm, clips())
    assert all(np.all(g == 0) for g in jax.tree.leaves(of_params))
    assert np.all(np.abs(of_x) > 0)
    norm(clips())
    np.testing.assert_array_equal(norm.mean[...], mean)
    np.testing.assert_array_equal(norm.var[...], var)


@pytest.mark.parametrize("kind", ["batch", "affine"])
def test_the_others_learn(kind, randomise):
    of_params, _ = gradients(randomise(lambda: Norm(CHANNELS, kind=kind)), clips())
    assert all(np.all(np.abs(g) > 0) for g in jax.tree.leaves(of_params))


def test_affine_has_no_statistics(randomise):
    norm = randomise(lambda: Norm(CHANNELS, kind="affine"))
    assert set(nnx.to_pure_dict(nnx.state(norm))) == {"scale", "bias"}
    x = clips()
    np.testing.assert_allclose(
        norm(x), x * norm.scale[...].reshape(1, 1, 1, 1, -1) + norm.bias[...].reshape(1, 1, 1, 1, -1), rtol=1e-6
    )


def test_bfloat16_takes_statistics_in_float32(randomise):
    norm = randomise(lambda: Norm(CHANNELS))
    norm.mean[...], norm.var[...] = jnp.zeros(CHANNELS), jnp.zeros(CHANNELS)
    x = clips(8, offset=30.0).astype(jnp.bfloat16)
    y = norm(x)
    assert y.dtype == jnp.bfloat16
    assert norm.mean[...].dtype == norm.var[...].dtype == norm.scale[...].dtype == jnp.float32
    # bfloat16 has 8 bits. Its sums over 192 values would be wrong by percents.
    exact = np.asarray(x.astype(jnp.float32), np.float64)
    np.testing.assert_allclose(norm.mean[...], 0.1 * exact.mean((0, 1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.1 * exact.var((0, 1, 2, 3)), rtol=1e-3)
    expected = normalized(exact, norm, exact.mean((0, 1, 2, 3)), exact.var((0, 1, 2, 3)))
    np.testing.assert_allclose(y.astype(jnp.float32), expected, atol=0.02)


@pytest.mark.parametrize("shape", [(4, CHANNELS), (4, 5, CHANNELS), (4, 5, 6, CHANNELS)])
def test_any_number_of_axes(shape):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    y = np.asarray(Norm(CHANNELS)(x)).reshape(-1, CHANNELS)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(y.var(0), 1, rtol=1e-3)


def test_constant_channels_stay_finite():
    # The variance is a difference of two sums. Rounding makes it negative in some of these channels.
    values = jnp.asarray(np.random.default_rng(0).uniform(0, 1000, 64), jnp.float32)
    y = Norm(64)(jnp.broadcast_to(values, (8, 3, 5, 5, 64)))
    assert np.all(np.isfinite(y))
