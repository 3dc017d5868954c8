"""conv3d equals a convolution over three axes, in values and gradients."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nl_jax.ops import conv_gradient, devices
from nl_jax.ops.conv import MAX_STACKED_CHANNELS, conv3d

SIZE = (7, 8, 11)  # odd and even sizes


def reference(x, kernel, strides, padding):
    padding = [(p, p) for p in padding]
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))


@pytest.mark.parametrize(
    "kernel, strides, channels",
    [
        ((1, 1, 1), (1, 1, 1), 4),
        ((1, 1, 1), (1, 2, 2), 4),  # the shortcut
        ((1, 3, 3), (1, 2, 2), 4),
        ((3, 1, 1), (1, 1, 1), 4),  # fewer channels than the result has
        ((3, 1, 1), (1, 1, 1), MAX_STACKED_CHANNELS + 1),  # more
        ((2, 1, 1), (1, 1, 1), 17),
        ((3, 1, 1), (2, 2, 2), 4),
        ((3, 3, 3), (1, 1, 1), MAX_STACKED_CHANNELS + 1),
        ((3, 3, 3), (1, 2, 2), 4),
        ((3, 3, 3), (2, 2, 2), MAX_STACKED_CHANNELS + 1),
        ((5, 7, 7), (2, 2, 2), 3),  # the stems
        ((5, 7, 7), (1, 2, 2), 3),
        ((1, 7, 7), (2, 2, 2), 3),
        ((5, 5, 5), (1, 2, 2), 3),
    ],
)
@pytest.mark.parametrize("large_frames", [False, True])
def test_equals_a_3d_convolution(kernel, strides, channels, large_frames, monkeypatch):
    if large_frames:
        monkeypatch.setattr(conv_gradient, "MIN_POSITIONS", 1)
        monkeypatch.setattr(conv_gradient, "partitioned", lambda: False)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *SIZE, channels)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(*kernel, channels, 5)) / np.sqrt(np.prod(kernel) * channels), jnp.float32)
    padding = tuple(k // 2 for k in kernel)

    def value_and_gradients(conv):
        y, pull = jax.vjp(lambda x, k: conv(x, k, strides, padding), x, weights)
        return y, *pull(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    ours, expected = (jax.jit(value_and_gradients, static_argnums=0)(conv) for conv in (conv3d, reference))
    for name, a, b in zip(("y", "dx", "dkernel"), ours, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(b).max()), err_msg=name)


@pytest.mark.parametrize(
    "kernel, strides, padding, size, channels",
    [
        ((5, 7, 7), (1, 2, 2), (2, 3, 3), (4, 16, 16), 3),  # the stems
        ((5, 7, 7), (2, 2, 2), (2, 3, 3), (4, 17, 15), 3),
        ((1, 7, 7), (2, 2, 2), (0, 3, 3), (4, 16, 14), 3),
        ((1, 3, 5), (1, 3, 3), (0, 1, 0), (2, 16, 19), 2),
    ],
)
def test_a_gpu_takes_a_stem_over_cells(kernel, strides, padding, size, channels):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, channels)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(*kernel, channels, 5)) / np.sqrt(np.prod(kernel)), jnp.float32)

    def value_and_gradients(conv):
        y, pull = jax.vjp(lambda x, k: conv(x, k, strides, padding), x, weights)
        return y, *pull(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    with devices.compiling_for("gpu", 1):
        found = jax.jit(value_and_gradients, static_argnums=0)(conv3d)
        jaxpr = str(jax.make_jaxpr(lambda x, k: conv3d(x, k, strides, padding))(x, weights))
    assert "window_strides=(1, 1)" in jaxpr and f"window_strides={strides[1:]}" not in jaxpr
    for name, a, b in zip(("y", "dx", "dkernel"), found, value_and_gradients(reference), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(b).max()), err_msg=name)


@pytest.mark.parametrize("frames", [1, 2])
def test_a_kernel_that_reaches_over_all_frames_and_beyond(frames):
    rng = np.random.default_rng(0)
    shapes = (2, frames, 2, 2, 3), (5, 1, 1, 3, 4), (2, frames, 2, 2, 4)
    x, kernel, dy = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    ours, expected = (
        jax.grad(lambda k, conv=conv: (conv(x, k, (1, 1, 1), (2, 0, 0)) * dy).sum())(kernel)
        for conv in (conv3d, reference)
    )
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_no_padding_unless_asked_for():
    x, kernel = jnp.ones((1, 4, 5, 6, 2)), jnp.ones((3, 3, 3, 2, 1))
    np.testing.assert_array_equal(conv3d(x, kernel), np.full((1, 2, 3, 4, 1), 54.0))


def test_bfloat16_stays():
    y = conv3d(jnp.ones((1, 3, 4, 4, 2), jnp.bfloat16), jnp.ones((3, 3, 3, 2, 4), jnp.bfloat16), padding=(1, 1, 1))
    assert y.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "x, kernel, message",
    [
        ((1, 4, 8, 8, 3), (1, 3, 3, 4, 8), r"3 channels.*4"),
        ((1, 2, 8, 8, 4), (3, 1, 1, 4, 8), r"2 frames.*3"),
    ],
)
def test_errors(x, kernel, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(conv3d)(jnp.zeros(x), jnp.zeros(kernel))


@pytest.mark.parametrize("strides, kernel, channels", [((1, 1, 1), 3, 5), ((1, 2, 2), 7, 3)])
@pytest.mark.parametrize("height", [48, 46])  # 46 rows divide only into halves or single rows
def test_gradient_of_a_frame_taken_in_strips(strides, kernel, channels, height, monkeypatch):
    """A large frame is taken in strips of rows. The sums stay the same."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 1, height, 56, channels)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(1, kernel, kernel, channels, 4)), jnp.float32)
    half = (0, kernel // 2, kernel // 2)

    def gradient():
        y, pull = jax.vjp(lambda weights: conv3d(x, weights, strides, half), weights)
        return pull(jnp.asarray(np.random.default_rng(1).normal(size=y.shape), jnp.float32))[0]

    monkeypatch.setattr(conv_gradient, "partitioned", lambda: False)
    whole = gradient()
    monkeypatch.setattr(conv_gradient, "MAX_LAID_OUT", 2**11)
    np.testing.assert_allclose(gradient(), whole, rtol=1e-4, atol=1e-4 * float(jnp.abs(whole).max()))
