"""The kinds of run. Each is one file here, and one line of TASKS."""

from flax import nnx
from jax.sharding import Mesh

from nl_jax.errors import InputError, require

require("train", "ml_collections")  # which the files below import

from ml_collections import ConfigDict  # noqa: E402

from nl_jax.models.flat import FlatParams  # noqa: E402
from nl_jax.places import Place  # noqa: E402
from nl_jax.tasks.classification import Classification  # noqa: E402
from nl_jax.tasks.detection import Detection  # noqa: E402
from nl_jax.training.task import Task  # noqa: E402
from nl_jax.training.workdir import read_config, restore_arrays  # noqa: E402

TASKS = {"classification": Classification, "detection": Detection}


def task_of(config: ConfigDict) -> Task:
    """The task that a config names in its field `task`; without one it is classification."""
    name = config.get("task", "classification")
    if name not in TASKS:
        raise InputError(f"task={name!r} is unknown; choose one of {', '.join(TASKS)}")
    return TASKS[name](config)


def restore_network(workdir: Place, mesh: Mesh, *, best: bool = False) -> tuple[nnx.GraphDef, FlatParams, FlatParams]:
    """The network of a run as `nl_jax.models.flat` splits it: its newest checkpoint, or the best by validation."""
    return restore_arrays(workdir, task_of(read_config(workdir)), mesh, best=best)
