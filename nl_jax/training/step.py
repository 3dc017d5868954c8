"""The training state, the training step that updates it, and the forward pass for tests.

The training step computes the gradient of a whole batch at once, or part by part. Both functions are compiled once for
every shape of a batch.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from nl_jax.models import flat
from nl_jax.models.norm import MOMENTUM, pooled
from nl_jax.training import sharding
from nl_jax.training.optimizer import tested_params

# Maps (model, batch, key) to (loss, further metrics).
Loss = Callable[[nnx.Module, dict[str, Array], Key[Array, ""]], tuple[Float[Array, ""], dict[str, Float[Array, ""]]]]


@flax.struct.dataclass
class TrainState:
    """The state of a training run as a plain pytree: Optax updates it and Orbax saves it.

    Attributes:
      step: int32 (), number of finished steps.
      params: parameters by name, see `models.flat`.
      batch_stats: batch norm statistics by name.
      opt_state: state of the optimizer.
    """

    step: Any
    params: flat.FlatParams
    batch_stats: flat.FlatParams
    opt_state: Any

    def tested_params(self) -> flat.FlatParams:
        """Returns the weights that a test uses: their average if the optimizer keeps one, else the weights."""
        return tested_params(self.params, self.opt_state)


def create_state(
    build: Callable[[nnx.Rngs], nnx.Module], optimizer: optax.GradientTransformation, mesh: Mesh, seed: int
) -> TrainState:
    """Returns a new training state on the devices of a mesh.

    Every array is created with its final sharding, so a split array is never whole on one device.

    Args:
      build: builds the network from its random streams.
      optimizer: the optimizer.
      mesh: the devices.
      seed: seed of the parameters.
    """

    def init(key):
        _, params, batch_stats = flat.split(build(nnx.Rngs(key)))
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params))

    key = jax.random.key(seed)
    shardings = sharding.state_shardings(mesh, jax.eval_shape(init, key))
    return jax.jit(init, out_shardings=shardings)(key)


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
    """Returns the training step (state, batch, key) -> (state, metrics): loss, gradient and update.

    The step donates the given state: the caller must not use its arrays again. The metrics are the loss, the metrics
    that `loss` returns, the learning rate and the norm of the gradient. The step folds its number into `key` for
    `loss`, so a resumed run draws the same random numbers as an uninterrupted run.

    Args:
      graphdef: structure of the network.
      loss: computes the loss of a network in training mode on a batch (b,..), see `Loss`.
      optimizer: the optimizer.
      schedule: maps a step to its learning rate, for the metrics.
      mesh: the devices.
      state: a state, or its shapes. New states have its shardings.
      accumulate: k, the number of parts of a batch. If k is above 1, a batch is (k,b/k,..), and the metrics are means
        over the parts.
      skip_nonfinite: whether a step whose loss or gradient is not finite changes only the counters.
      compiler_options: options of `jax.jit`.
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
    gradient = _over_parts(gradient, accumulate, state_shardings.params)

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
    """Returns the new array if the step is finite, else the old array.

    Integers are counters and are always new: the schedule counts skipped steps too.
    """
    return jnp.where(finite, new, old) if jnp.issubdtype(new.dtype, jnp.floating) else new


def _over_parts(gradient: Callable, parts: int, shardings) -> Callable:
    """Returns `gradient(params, batch_stats, batch, key) -> (grads, metrics, batch_stats)` for k parts (k,b/k,..).

    It computes one part after another and adds up the gradients, so it needs less memory than the whole batch at once.
    Every part holds whole groups of batch norm, so the gradient and the statistics are the same as for the whole batch.
    Every part draws its own dropout.

    Args:
      gradient: the same function for one part, a batch (b/k,..).
      parts: k.
      shardings: shardings of the gradient's sum, by name.
    """
    if parts == 1:
        return gradient

    def of_all(params, batch_stats, batch, key):
        def of_part(total, part):
            index, batch = part
            *found, stats = gradient(params, batch_stats, batch, jax.random.fold_in(key, index))
            grads, metrics = jax.tree.map(jnp.add, total, tuple(found))
            return (jax.lax.with_sharding_constraint(grads, shardings), metrics), stats

        first = jax.tree.map(lambda array: array[0], batch)
        shapes = jax.eval_shape(gradient, params, batch_stats, first, key)
        zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), tuple(shapes[:2]))
        total, stats = jax.lax.scan(of_part, zeros, (jnp.arange(parts), batch))
        grads, metrics = jax.tree.map(lambda sum_: sum_ / parts, total)
        return grads, metrics, _together(stats)

    return of_all


def _together(stats: flat.FlatParams) -> flat.FlatParams:
    """Combines the running statistics after each part into the running statistics after the whole batch.

    All parts start from the same running statistics. A running mean moves 1 - MOMENTUM of the way to the mean of its
    part. So the variance of the running means is (1 - MOMENTUM)^2 times the variance of the parts' means. The running
    variance needs 1 - MOMENTUM times the variance of the parts' means.
    """
    return pooled(stats, weight=1 / (1 - MOMENTUM))


def make_forward(
    graphdef: nnx.GraphDef, forward: Callable[[nnx.Module, dict[str, Array]], Any], mesh: Mesh
) -> Callable[[flat.FlatParams, flat.FlatParams, dict[str, Array]], Any]:
    """Returns the function (params, batch_stats, inputs (b,..)) -> outputs of a network in evaluation mode.

    Every device gets the outputs of all rows.

    Args:
      graphdef: structure of the network.
      forward: the function (model, inputs) -> outputs.
      mesh: the devices.
    """

    def of_arrays(params, batch_stats, inputs):
        model = flat.merge(graphdef, params, batch_stats)
        model.eval()
        return forward(model, inputs)

    return jax.jit(sharding.within(mesh, of_arrays), out_shardings=sharding.replicated(mesh))
