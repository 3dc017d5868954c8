"""The network of a run before its first step."""

from functools import partial

import optax
from flax import nnx
from jax.sharding import Mesh

from nl_jax.models import flat
from nl_jax.models.flat import FlatParams
from nl_jax.places import Place
from nl_jax.runs.stages import start_of
from nl_jax.tasks import task_of
from nl_jax.training import workdir
from nl_jax.training.start import take_over
from nl_jax.training.step import create_state


def first_network(directory: Place, mesh: Mesh) -> tuple[nnx.GraphDef, FlatParams, FlatParams]:
    """Returns the network of a run before its first step, as `nl_jax.models.flat` splits it.

    The seed of the run gives the initial arrays again. If the run started from another network, the function reads the
    arrays of that network.

    Args:
      directory: the workdir of the run.
      mesh: the devices over which the arrays are laid out.

    Raises:
      InputError: the workdir has no config, or the network from which the run started is no longer there.
    """
    config, classes = workdir.read_config(directory), workdir.read_classes(directory)
    task = task_of(config)
    build = partial(task.build, len(classes))
    graphdef, *_ = flat.abstract(lambda: build(nnx.Rngs(0)))
    network = create_state(build, optax.identity(), mesh, config.seed)
    if (start := start_of(config, directory)) is not None:
        network, _ = take_over(network, start, task, classes, mesh)
    return graphdef, network.params, network.batch_stats
