"""Where a run starts: the weights of another workdir, inflated, folded and laid out as this run needs them."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from nl_jax.errors import InputError
from nl_jax.models import NonLocalBlock
from nl_jax.models.flat import FlatParams
from nl_jax.training import workdir
from nl_jax.training.state import TrainState
from nl_jax.training.task import Task
from nl_jax.weights import norms
from nl_jax.weights.inflate import PLANES, Report, inflate


@dataclasses.dataclass(frozen=True)
class Start:
    """The run to start from: its workdir and the task of its config."""

    directory: Path
    task: Task


def take_over(
    train_state: TrainState, start: Start, task: Task, classes: tuple[str, ...], mesh: Mesh
) -> tuple[TrainState, Report]:
    """The state with parameters and statistics of the network in a workdir wherever this one has them.

    Kernels are inflated in time, batch norm is folded where this network has affine layers, and the classifier is taken
    over if it tells the same classes apart.

    Args:
      task: of the state.
      classes: that its network tells apart.

    Raises:
      InputError: for arrays that do not fit, or a network that was trained on inputs normalised otherwise.
    """
    config, directory = task.config, start.directory
    if (theirs := start.task.config.input).to_dict() != config.input.to_dict():  # whether or not they are locked
        raise InputError(
            f"{directory} was trained with input.mean={theirs.mean} and input.std={theirs.std}, and this run has "
            f"input.mean={config.input.mean} and input.std={config.input.std}; set them alike"
        )
    _, *arrays = workdir.restore_arrays(directory, start.task, mesh)
    params, batch_stats = (task.start_arrays(start.task, part) for part in arrays)
    source, folded = norms.fold(
        params | batch_stats, {*train_state.params, *train_state.batch_stats}, norms.OUR_EPSILON
    )
    params, batch_stats = ({name: source[name] for name in part if name in source} for part in (params, batch_stats))
    same_classes = workdir.read_classes(directory) == classes
    params, report = inflate(train_state.params, params, config.start.planes, head=same_classes, by_class=task.by_class)
    batch_stats, _ = inflate(train_state.batch_stats, batch_stats, config.start.planes)
    report.norms = norms.folded(folded)
    like = jax.tree.map(lambda array: array.sharding, (train_state.params, train_state.batch_stats))
    params, batch_stats = jax.device_put((params, batch_stats), like)
    return train_state.replace(params=params, batch_stats=batch_stats), report


def check_planes(planes: str) -> None:
    """Raises InputError for a way to inflate that does not exist."""
    if planes not in PLANES:
        raise InputError(f"start.planes={planes!r} is unknown; choose one of {', '.join(PLANES)}")


def check_blocks_can_learn(model: nnx.Module, params: FlatParams) -> None:
    """A new block is the identity by a scale of zero, which a frozen norm would keep for ever.

    Args:
      model: the network, whose arrays may be shapes.

    Raises:
      InputError: for a block that would stay so.
    """
    for path, module in nnx.iter_modules(model):
        if isinstance(module, NonLocalBlock) and getattr(module.norm, "kind", "") == "frozen":
            name = "/".join(map(str, (*path, "norm", "scale")))
            if not np.asarray(params[name]).any():
                raise InputError(
                    f"{name} is zero and frozen, so the block would stay the identity: start from a network that has "
                    "it, or set model.nonlocal_options.norm to none or affine"
                )
