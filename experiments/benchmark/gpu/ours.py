"""Makes programs of our networks to time: parameters from the host, a forward pass, a training step with Optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from nl_jax.models import ResNetConfig, VideoResNet, flat


def sgd(rate: float = 0.01) -> optax.GradientTransformation:
    """Returns the optimizer of the paper with a constant learning rate."""
    return optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(rate, momentum=0.9, nesterov=True))


def arrays(config: ResNetConfig, seed: int = 0):
    """Returns the graphdef, parameters and batch norm statistics of a network.

    The weights have the initialization of He et al., and no scale is zero. NumPy draws them, because JAX would compile
    every initializer for the GPU, which takes more than a minute.
    """
    graphdef, params, batch_stats = flat.abstract(lambda: VideoResNet(config, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(seed)

    def fill(name, shape):
        if name.endswith("kernel"):
            values = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))
        else:
            values = np.full(shape, float(name.endswith(("scale", "var"))))
        return jnp.asarray(values, jnp.float32)

    return graphdef, *({name: fill(name, leaf.shape) for name, leaf in of.items()} for of in (params, batch_stats))


def training_step(graphdef, optimizer: optax.GradientTransformation):
    """Returns a function (state, video, label, key) -> (state, loss).

    The state is (params, batch_stats, optimizer state), and it is donated.
    """

    def step(state, video, label, key):
        params, batch_stats, opt_state = state

        def loss_of(params):
            model = flat.merge(graphdef, params, batch_stats)
            model.train()
            logits, _ = model(video, key)
            _, _, new_stats = flat.split(model)
            return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(), new_stats

        (loss, batch_stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), batch_stats, opt_state), loss

    return jax.jit(step, donate_argnums=0)


def forward_pass(graphdef):
    """Returns a function (params, batch_stats, video) -> probabilities. It uses running statistics."""

    def forward(params, batch_stats, video):
        model = flat.merge(graphdef, params, batch_stats)
        model.eval()
        return jax.nn.softmax(model(video)[0])

    return jax.jit(forward)
