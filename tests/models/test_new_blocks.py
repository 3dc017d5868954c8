"""New blocks in a trained network, at its learning rate: the settings that docs/finetune.md recommends stay finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nl_jax.models import NonLocalBlock, flat
from nl_jax.models.nonlocal_block import PAIRWISE

CHANNELS, CLASSES, RATE = 64, 10, 0.1  # the rate of a ResNet's recipe, with momentum 0.9


class Head(nnx.Module):
    """A block after rectified features, and a classifier of their mean."""

    def __init__(self, pairwise: str, norm: str, rngs: nnx.Rngs):
        self.block = NonLocalBlock(CHANNELS, pairwise=pairwise, norm=norm, rngs=rngs)
        self.classifier = nnx.Linear(CHANNELS, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.classifier(self.block(x).mean((1, 2, 3)))


def losses(pairwise: str, norm: str, steps: int) -> np.ndarray:
    """Returns the losses of SGD on 64 feature maps of ten kinds, 16 a step."""
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=64)
    kinds = 0.5 * rng.normal(size=(CLASSES, CHANNELS))
    x = np.maximum(rng.normal(size=(64, 4, 7, 7, CHANNELS)) + kinds[labels][:, None, None, None], 0)
    x, labels = (jnp.asarray(array).reshape(4, 16, *array.shape[1:]) for array in (x.astype(np.float32), labels))
    graph, params, statistics = flat.split(Head(pairwise, norm, nnx.Rngs(0)))
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(RATE, momentum=0.9))

    def step(carry, i):
        params, statistics, state = carry

        def loss(params):
            model = flat.merge(graph, params, statistics)
            found = optax.softmax_cross_entropy_with_integer_labels(model(x[i % 4]), labels[i % 4]).mean()
            return found, flat.split(model)[2]

        (found, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), statistics, state), found

    carry = (params, statistics, optimizer.init(params))
    return np.asarray(jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(steps))[1])(carry))


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_batch_norm_is_safe_at_the_rate_of_the_network(pairwise):
    found = losses(pairwise, "batch", 40)
    assert np.isfinite(found).all()
    assert found.max() < 3.0 and found[-4:].mean() < 0.2, "chance is 2.3"


@pytest.mark.parametrize("norm", ["none", "affine"])
def test_a_dot_product_without_statistics_is_not(norm):
    """docs/finetune.md warns of this block. It multiplies three activations, and nothing bounds their product."""
    assert not np.isfinite(losses("dot_product", norm, 40)).all()
