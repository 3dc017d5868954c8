"""Traces the training step of a pod from shapes alone, without the pod, the data or any array."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from nl_jax.models import flat
from nl_jax.training import sharding
from nl_jax.training.optimizer import make_schedule
from nl_jax.training.step import Loss, TrainState, make_train_step
from nl_jax.training.task import Example, Task


def trace_run(task: Task, mesh: Mesh, num_classes: int, example: Example) -> jax.stages.Traced:
    """Returns the traced training step of a task.

    Args:
      task: the task, with its config.
      mesh: the devices.
      num_classes: number of classes.
      example: shapes of the arrays of one training example.

    Raises:
      InputError: the learning rate schedule of the config is not valid.
    """
    config = task.config
    schedule = make_schedule(config.optimizer, config.steps)
    return trace_train_step(
        partial(task.build, num_classes),
        task.loss,
        task.optimizer(schedule),
        schedule,
        mesh,
        abstract_batch(example, config.batch_size, mesh, config.accumulate_steps),
        accumulate=config.accumulate_steps,
        skip_nonfinite=config.skip_nonfinite > 0,
    )


def trace_train_step(
    build: Callable[[nnx.Rngs], nnx.Module],
    loss: Loss,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
    batch: dict[str, jax.ShapeDtypeStruct],
    *,
    accumulate: int = 1,
    skip_nonfinite: bool = False,
) -> jax.stages.Traced:
    """Returns the traced training step for a batch of given shapes. The step is not lowered yet.

    Args:
      build: builds the network from its random streams.
      loss: as in `make_train_step`.
      optimizer: as in `make_train_step`.
      schedule: as in `make_train_step`.
      mesh: the devices.
      batch: shapes and shardings of a batch, from `abstract_batch`.
      accumulate: as in `make_train_step`.
      skip_nonfinite: as in `make_train_step`.
    """
    graphdef, state = abstract_state(build, optimizer, mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=sharding.replicated(mesh))
    step = make_train_step(graphdef, loss, optimizer, schedule, mesh, state, accumulate, skip_nonfinite=skip_nonfinite)
    return step.trace(state, batch, key)


def abstract_state(
    build: Callable[[nnx.Rngs], nnx.Module], optimizer: optax.GradientTransformation, mesh: Mesh
) -> tuple[nnx.GraphDef, TrainState]:
    """Returns the graph definition of the network, and the state of `create_state` as shapes with shardings."""
    graphdef, params, batch_stats = flat.abstract(lambda: build(nnx.Rngs(0)))
    state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, batch_stats, jax.eval_shape(optimizer.init, params))
    return graphdef, sharding.laid_out(mesh, state)


def abstract_batch(
    example: Example, batch_size: int, mesh: Mesh, accumulate: int = 1
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the batch that `sharding.put_batch` makes, as shapes with shardings.

    Args:
      example: shapes of the arrays of one example.
      batch_size: b, examples in the batch of all processes.
      mesh: the devices.
      accumulate: k, the number of parts of a batch. If k is above 1, the batch is (k,b/k,..).
    """

    def of(array):
        shape = (batch_size, *array.shape)
        place = sharding.batch_sharding(mesh, len(shape), accumulate)
        parts = (accumulate, batch_size // accumulate) if accumulate > 1 else (batch_size,)
        return jax.ShapeDtypeStruct((*parts, *array.shape), array.dtype, sharding=place)

    return {name: of(array) for name, array in example.items()}
