"""The training step traced from shapes alone: what a pod will run, without the pod, the data or any array."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from nl_jax.models import ResNetConfig, VideoResNet, flat
from nl_jax.training import sharding
from nl_jax.training.schedule import make_optimizer, make_schedule
from nl_jax.training.setup import make_resnet_config
from nl_jax.training.state import TrainState
from nl_jax.training.step import Normalize, make_normalize, make_train_step


def trace_run(config: ConfigDict, mesh: Mesh, num_classes: int, clip: tuple[int, int, int]) -> jax.stages.Traced:
    """The step that `train(config, ..)` runs on this mesh, for clips of (t, h, w)."""
    schedule = make_schedule(config.optimizer, config.steps)
    return trace_train_step(
        make_resnet_config(config.model, num_classes),
        make_normalize(config.input),
        make_optimizer(config.optimizer, schedule),
        schedule,
        mesh,
        (config.batch_size, *clip),
        accumulate=config.accumulate_steps,
        skip_nonfinite=config.skip_nonfinite > 0,
    )


def trace_train_step(
    resnet: ResNetConfig,
    normalize: Normalize,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
    videos: tuple[int, int, int, int],
    *,
    accumulate: int = 1,
    skip_nonfinite: bool = False,
) -> jax.stages.Traced:
    """The step for batches of videos (b, t, h, w) of uint8, with one label each; it has yet to be lowered."""
    graphdef, state = abstract_state(resnet, optimizer, mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=sharding.replicated(mesh))
    step = make_train_step(
        graphdef, normalize, optimizer, schedule, mesh, state, accumulate, skip_nonfinite=skip_nonfinite
    )
    return step.trace(state, abstract_batch(videos, mesh, accumulate), key)


def abstract_state(
    resnet: ResNetConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> tuple[nnx.GraphDef, TrainState]:
    """What `state.create` makes, as shapes laid out over the mesh."""
    graphdef, params, batch_stats = flat.abstract(lambda: VideoResNet(resnet, rngs=nnx.Rngs(0)))
    state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, batch_stats, jax.eval_shape(optimizer.init, params))
    return graphdef, laid_out(state, mesh)


def laid_out(tree, mesh: Mesh):
    """Shapes with the shardings that the same arrays of a state have."""
    shardings = sharding.state_shardings(mesh, tree)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def abstract_batch(
    videos: tuple[int, int, int, int], mesh: Mesh, accumulate: int = 1
) -> dict[str, jax.ShapeDtypeStruct]:
    """What `sharding.put_batch` makes of a batch of videos and labels, as shapes."""

    def of(shape, dtype):
        place = sharding.batch_sharding(mesh, len(shape), accumulate)
        parts = (accumulate, shape[0] // accumulate) if accumulate > 1 else shape[:1]
        return jax.ShapeDtypeStruct((*parts, *shape[1:]), dtype, sharding=place)

    return {"video": of((*videos, 3), jnp.uint8), "label": of(videos[:1], jnp.int32)}
