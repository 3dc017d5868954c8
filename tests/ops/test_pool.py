"""max_pool against PyTorch, in values and gradients."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nl_jax.ops import devices
from nl_jax.ops.pool import max_pool

SIZE = (7, 8, 11)  # odd and even sizes
POOLS = [
    ((3, 3, 3), (2, 2, 2), (1, 1, 1)),  # the pools of every geometry
    ((3, 1, 1), (2, 1, 1), (1, 0, 0)),
    ((2, 3, 3), (2, 2, 2), (0, 0, 0)),
    ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    ((2, 1, 1), (2, 1, 1), (0, 0, 0)),
    ((1, 2, 2), (1, 2, 2), (0, 0, 0)),  # keys of the non-local block
    ((2, 2), (2, 2), (0, 0)),
    ((2,), (2,), (0,)),
]


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("kernel, strides, padding", POOLS)
def test_equals_torch(kernel, strides, padding, platform, torch):
    axes = len(kernel)
    rng = np.random.default_rng(0)
    # All values are negative, so that padding with zeros would show. No two values are equal.
    shape = (2, *SIZE[:axes], 3)
    x = -1 - rng.permutation(np.prod(shape)).reshape(shape).astype(np.float32)

    theirs = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    expected = getattr(torch.nn.functional, f"max_pool{axes}d")(theirs, kernel, strides, padding)
    weights = rng.normal(size=expected.shape).astype(np.float32)
    (expected * torch.tensor(weights)).sum().backward()

    with devices.compiling_for(platform, 1):
        y, pull = jax.vjp(jax.jit(lambda x: max_pool(x, kernel, strides, padding)), x)
        (dx,) = pull(jnp.asarray(np.moveaxis(weights, 1, -1)))
    np.testing.assert_array_equal(y, np.moveaxis(expected.detach().numpy(), 1, -1))
    np.testing.assert_allclose(dx, np.moveaxis(theirs.grad.numpy(), 1, -1), atol=1e-6)


@pytest.mark.parametrize("kernel, strides, padding", [*POOLS, ((3, 2), (1, 3), (1, 0))])
def test_equal_values_share_the_gradient_alike_on_a_gpu(kernel, strides, padding):
    """Also for windows that leave places out, and for many equal values."""
    x = jnp.round(jnp.asarray(np.random.default_rng(0).normal(size=(2, *SIZE[: len(kernel)], 3)), jnp.float32))
    found = {}
    for platform in ("cpu", "gpu"):
        with devices.compiling_for(platform, 1):
            y, pull = jax.vjp(jax.jit(lambda x: max_pool(x, kernel, strides, padding)), x)
            found[platform] = y, pull(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))[0]
    for on_gpu, on_cpu in zip(found["gpu"], found["cpu"], strict=True):
        np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-6)


def test_equal_values_share_the_gradient():
    gradient = jax.grad(lambda x: max_pool(x, (2, 2), (2, 2), (0, 0)).sum())(jnp.ones((1, 4, 4, 1)))
    np.testing.assert_array_equal(gradient, np.full((1, 4, 4, 1), 0.25))


def test_bfloat16_stays():
    assert max_pool(jnp.ones((1, 4, 4, 1), jnp.bfloat16), (3, 3), (2, 2), (1, 1)).dtype == jnp.bfloat16


def test_errors():
    pool = inspect.unwrap(max_pool)
    with pytest.raises(ValueError, match=r"\(1, 4, 4, 1\) does not fit kernel \(2,\)"):
        pool(jnp.zeros((1, 4, 4, 1)), (2,), (2,), (0,))
    with pytest.raises(ValueError, match=r"axis 2 .*shorter than the pooling kernel 3"):
        pool(jnp.zeros((1, 4, 2, 1)), (1, 3), (1, 1), (0, 0))
