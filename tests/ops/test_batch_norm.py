"""The batch norm for GPUs against float64 in NumPy and against the norm of the other platforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nl_jax.models import flat
from nl_jax.models.norm import Norm
from nl_jax.ops import devices
from nl_jax.ops.batch_norm import batch_norm

EPSILON = 1e-5


def reference(x, scale, bias, dy, rectified):
    """Computes y, mean, var and the gradients of x, scale and bias in float64."""
    x, scale, bias, dy = (np.asarray(a, np.float64) for a in (x, scale, bias, dy))
    mean, var = x.mean(1), x.var(1)
    deviation = np.sqrt(var + EPSILON)[:, None]
    normal = (x - mean[:, None]) / deviation
    y = normal * scale + bias
    if rectified:
        dy, y = np.where(y > 0, dy, 0), np.maximum(y, 0)
    dnormal = dy * scale
    centred = dnormal - dnormal.mean(1, keepdims=True) - normal * (dnormal * normal).mean(1, keepdims=True)
    return y, mean, var, centred / deviation, (dy * normal).sum((0, 1)), dy.sum((0, 1))


def arguments(dtype=np.float32):
    rng = np.random.default_rng(0)
    x = 1 + 2 * rng.normal(size=(2, 30, 3))
    return [jnp.asarray(a, dtype) for a in (x, rng.normal(size=3), rng.normal(size=3), rng.normal(size=x.shape))]


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("one_device", [False, True])
def test_values_and_gradients(rectified, one_device):
    """One device takes both sums in one pass. Split arrays, as on the eight devices of the tests, take two passes."""
    x, scale, bias, dy = arguments()

    @jax.jit
    def step(x, scale, bias, dy):
        (y, mean, var), pull = jax.vjp(lambda *a: batch_norm(*a, EPSILON, rectified), x, scale, bias)
        return y, mean, var, *pull((dy, jnp.zeros_like(mean), jnp.zeros_like(var)))

    with devices.compiling_for("cpu", 1 if one_device else 8):
        found = step(x, scale, bias, dy)
    for value, expected in zip(found, reference(x, scale, bias, dy, rectified), strict=True):
        np.testing.assert_allclose(value, expected, atol=2e-5)


def test_the_statistics_have_gradients():
    x, *_ = arguments()
    weights = jnp.asarray([[1.0, 2.0, 3.0]] * 2)

    def both(mean_and_var):
        return lambda x: sum((weights * s * s).sum() for s in mean_and_var(x))

    found = jax.grad(both(lambda x: batch_norm(x, jnp.ones(3), jnp.zeros(3), EPSILON, True)[1:]))(x)
    expected = jax.grad(both(lambda x: (x.mean(1), x.var(1))))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rectified", [False, True])
def test_norm_is_the_same_on_a_gpu(rectified, randomise):
    """Running statistics and groups are the same, too. In 16 bits only rounding differs."""
    rng = np.random.default_rng(0)
    x, dy = (jnp.asarray(rng.normal(size=(4, 2, 3, 4, 3)) + 1, jnp.bfloat16) for _ in range(2))
    found = {}
    for platform in ("cpu", "gpu"):
        parts = flat.split(randomise(lambda: Norm(3, group_size=2)))

        def apply(x, parts=parts):
            norm = flat.merge(*parts)
            return norm(x, rectified), (norm.mean[...], norm.var[...])

        with devices.compiling_for(platform, 1):
            y, pull, statistics = jax.vjp(apply, x, has_aux=True)
        found[platform] = y, pull(dy)[0], *statistics
    for on_gpu, on_cpu in zip(found["gpu"], found["cpu"], strict=True):
        assert on_gpu.dtype == on_cpu.dtype
        on_gpu, on_cpu = (np.asarray(a, np.float32) for a in (on_gpu, on_cpu))
        assert np.linalg.norm(on_gpu - on_cpu) < 0.01 * np.linalg.norm(on_cpu)


def test_on_a_gpu_nothing_is_kept_but_the_input():
    """The backward pass computes the gradient of the ReLU again from x. No mask is kept."""
    shape = jax.ShapeDtypeStruct((1, 64, 3), jnp.bfloat16)
    channels = jax.ShapeDtypeStruct((3,), jnp.float32)
    kept = jax.eval_shape(
        lambda *a: jax.vjp(lambda *a: batch_norm(*a, EPSILON, True)[0], *a)[1], shape, channels, channels
    )
    large = [leaf for leaf in jax.tree.leaves(kept) if leaf.size > 6]
    assert [(leaf.shape, leaf.dtype) for leaf in large] == [((1, 64, 3), jnp.bfloat16)]
