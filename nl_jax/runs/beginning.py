"""The network that a run began with."""

from functools import partial

import optax
from flax import nnx
from jax.sharding import Mesh

from nl_jax.models import flat
from nl_jax.models.flat import FlatParams
from nl_jax.places import Place, place
from nl_jax.tasks import task_of
from nl_jax.training import state, workdir
from nl_jax.training.start import Start, take_over
from nl_jax.zoo.start import StartFromPublished


def first_network(directory: Place, mesh: Mesh) -> tuple[nnx.GraphDef, FlatParams, FlatParams]:
    """The network of a workdir before its first step, as `nl_jax.models.flat` splits it.

    Its arrays are made again from the seed of the run. Where the run started from another network, they are those of
    that network, which is read where the config says that it lies.

    Args:
      directory: the workdir.
      mesh: the devices that the arrays are laid out over.

    Raises:
      InputError: for a workdir without a config, or a start that is no longer there.
    """
    config, classes = workdir.read_config(directory), workdir.read_classes(directory)
    task = task_of(config)
    build = partial(task.build, len(classes))
    graphdef, *_ = flat.abstract(lambda: build(nnx.Rngs(0)))
    network = state.create(build, optax.identity(), mesh, config.seed)
    if config.start.get("model"):
        start = StartFromPublished(config.start.model)
    elif config.start.workdir:
        start = _of_workdir(place("start.workdir", config.start.workdir))
    else:
        start = _of_workdir(directory / "start") if config.start.stage else None
    if start is not None:
        network, _ = take_over(network, start, task, classes, mesh)
    return graphdef, network.params, network.batch_stats


def _of_workdir(directory: Place) -> Start:
    return Start(directory, task_of(workdir.read_config(directory)))
