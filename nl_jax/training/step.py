"""One training step and one forward pass. Each is compiled once for every shape of a batch."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from nl_jax.models import flat
from nl_jax.training import sharding
from nl_jax.training.accumulate import over_parts
from nl_jax.training.state import TrainState

# (model, batch, key) -> (loss, further metrics)
Loss = Callable[[nnx.Module, dict[str, Array], Key[Array, ""]], tuple[Float[Array, ""], dict[str, Float[Array, ""]]]]


def make_train_step(
    graphdef: nnx.GraphDef,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
    state: TrainState,
    accumulate: int = 1,
    *,
    skip_nonfinite: bool = False,
    compiler_options: Mapping[str, object] | None = None,
) -> Callable[[TrainState, dict[str, Array], Key[Array, ""]], tuple[TrainState, dict[str, Array]]]:
    """Returns (state, batch, key) -> (state, metrics): loss, gradient, update. The function donates the given state.

    The metrics are the loss, the metrics that the loss returns, the learning rate and the norm of the gradient. With
    `accumulate` the batch has that many parts, (k,b/k,..), and the metrics are means over the parts.

    With `skip_nonfinite`, a step whose loss or gradient is not finite changes only the counters.

    The loss gets `key` folded with the step, so a resumed run draws the same numbers as an uninterrupted one.

    Args:
      loss: of the model, in training mode, on a batch (b,..).
      compiler_options: of `jax.jit`.
    """

    def gradient(params, batch_stats, batch, key):
        def loss_fn(params):
            model = flat.merge(graphdef, params, batch_stats)
            model.train()
            value, metrics = loss(model, batch, key)
            _, _, new_stats = flat.split(model)
            return value, (new_stats, metrics)

        (value, (new_stats, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        return grads, {"loss": value} | metrics, new_stats

    state_shardings = sharding.state_shardings(mesh, state)
    gradient = over_parts(gradient, accumulate, state_shardings.params)

    def train_step(state, batch, key):
        key = jax.random.fold_in(key, state.step)
        grads, metrics, batch_stats = gradient(state.params, state.batch_stats, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics |= {
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
            "grad_norm": optax.tree.norm(grads),
        }
        new_state = TrainState(state.step + 1, optax.apply_updates(state.params, updates), batch_stats, opt_state)
        if skip_nonfinite:
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
            new_state = jax.tree.map(lambda new, old: _where(finite, new, old), new_state, state)
        return new_state, metrics

    return jax.jit(
        sharding.within(mesh, train_step),
        donate_argnums=0,
        out_shardings=(state_shardings, sharding.replicated(mesh)),
        compiler_options=dict(compiler_options or {}),
    )


def _where(finite, new, old):
    """Keeps the new counters, which are integers: the schedule counts skipped steps too."""
    return jnp.where(finite, new, old) if jnp.issubdtype(new.dtype, jnp.floating) else new


def make_forward(
    graphdef: nnx.GraphDef, forward: Callable[[nnx.Module, dict[str, Array]], Any], mesh: Mesh
) -> Callable[[flat.FlatParams, flat.FlatParams, dict[str, Array]], Any]:
    """Returns (params, batch_stats, inputs (b,..)) -> `forward(model, inputs)` in evaluation mode, on every device."""

    def of_arrays(params, batch_stats, inputs):
        model = flat.merge(graphdef, params, batch_stats)
        model.eval()
        return forward(model, inputs)

    return jax.jit(sharding.within(mesh, of_arrays), out_shardings=sharding.replicated(mesh))
