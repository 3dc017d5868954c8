"""The tasks, which are the kinds of run. Each task is one file in this folder and one entry of TASKS."""

from flax import nnx
from jax.sharding import Mesh

from nl_jax.errors import InputError, require

require("train", "ml_collections")  # the modules below import it

from ml_collections import ConfigDict  # noqa: E402

from nl_jax.models.flat import FlatParams  # noqa: E402
from nl_jax.places import Place  # noqa: E402
from nl_jax.tasks.classification import Classification  # noqa: E402
from nl_jax.tasks.detection import Detection  # noqa: E402
from nl_jax.training.task import Task  # noqa: E402
from nl_jax.training.workdir import read_config, restore_arrays  # noqa: E402

TASKS = {"classification": Classification, "detection": Detection}


def task_of(config: ConfigDict) -> Task:
    """Returns the task of the config's field `task`. The default is classification.

    Raises:
      InputError: there is no task of this name.
    """
    name = config.get("task", "classification")
    if name not in TASKS:
        raise InputError(f"task={name!r} is unknown; choose one of {', '.join(TASKS)}")
    return TASKS[name](config)


def restore_network(workdir: Place, mesh: Mesh, *, best: bool = False) -> tuple[nnx.GraphDef, FlatParams, FlatParams]:
    """Returns the network of a run, as `nl_jax.models.flat` splits it.

    Args:
      workdir: the workdir of the run.
      mesh: the devices over which the arrays are laid out.
      best: whether the checkpoint is the best by validation. Otherwise it is the newest.

    Raises:
      InputError: the workdir has no config or no checkpoint.
    """
    return restore_arrays(workdir, task_of(read_config(workdir)), mesh, best=best)
