"""Starts a run from the network of another workdir: inflates, folds and lays out its weights."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from nl_jax.errors import InputError
from nl_jax.models import NonLocalBlock, flat
from nl_jax.models.flat import FlatParams
from nl_jax.places import Place
from nl_jax.training import workdir
from nl_jax.training.step import TrainState
from nl_jax.training.task import Task
from nl_jax.weights import norms
from nl_jax.weights.inflate import PLANES, Report, inflate


@dataclasses.dataclass(frozen=True)
class Start:
    """The run whose network another run starts from.

    Attributes:
      directory: its workdir.
      task: the task of its config.
    """

    directory: Place
    task: Task

    def classes(self) -> tuple[str, ...]:
        """Returns the classes of the run, in label order.

        Raises:
          InputError: the classes of the workdir cannot be read.
        """
        return workdir.read_classes(self.directory)

    def arrays(self, mesh: Mesh) -> list[FlatParams]:
        """Returns the parameters and the statistics of its network, laid out over the mesh.

        Raises:
          InputError: the workdir has no checkpoint, or a file cannot be read.
        """
        return list(workdir.restore_arrays(self.directory, self.task, mesh)[1:])


def take_over(
    train_state: TrainState, start: Start, task: Task, classes: tuple[str, ...], mesh: Mesh
) -> tuple[TrainState, Report]:
    """Puts the parameters and statistics of another network into a state, where both networks have them.

    Kernels are inflated in time. Batch norm is folded where this network has affine layers. The classifier is taken
    over if both networks have the same classes.

    Args:
      train_state: the state of this run.
      start: the run that has the other network.
      task: the task of this run.
      classes: the classes of this run.
      mesh: the devices.

    Returns:
      the new state, and a report.

    Raises:
      InputError: arrays do not fit, or the two networks normalize their inputs differently.
    """
    _check_inputs(task.config, start.task.config, f"{start.directory} was trained")
    arrays = start.arrays(mesh)
    same_classes = start.classes() == classes
    ours = train_state.params, train_state.batch_stats
    params, batch_stats, report = _fitted(*ours, arrays, task, start.task, same_classes)
    like = jax.tree.map(lambda array: array.sharding, ours)
    params, batch_stats = jax.device_put((params, batch_stats), like)
    return train_state.replace(params=params, batch_stats=batch_stats), report


def check_stage(task: Task, num_classes: int, source: Task, num_source_classes: int) -> None:
    """Checks that this run can start from the network of a stage that is not trained yet.

    Args:
      task: the task of this run.
      num_classes: number of classes of this run.
      source: the task of the stage.
      num_source_classes: number of classes of the stage.

    Raises:
      InputError: `take_over` or `check_blocks_can_learn` would raise this error hours later.
    """
    _check_inputs(task.config, source.config, f"{task.config.start.stage} is trained")
    graphdef, *ours = flat.abstract(lambda: task.build(num_classes, nnx.Rngs(0)))
    _, *theirs = flat.abstract(lambda: source.build(num_source_classes, nnx.Rngs(0)))
    # Zeros that take no memory, because only shapes and names count here.
    theirs = [{name: np.broadcast_to(np.float32(0), a.shape) for name, a in part.items()} for part in theirs]
    jax.eval_shape(lambda: _fitted(*ours, theirs, task, source, False)[:2])
    _check_blocks(flat.merge(graphdef, *ours), theirs[0].__contains__)


def _check_inputs(ours: ConfigDict, theirs: ConfigDict, whose: str) -> None:
    if theirs.input.to_dict() != ours.input.to_dict():  # dicts, because only one of the configs may be locked
        raise InputError(
            f"{whose} with input.mean={theirs.input.mean} and input.std={theirs.input.std}, and this run has "
            f"input.mean={ours.input.mean} and input.std={ours.input.std}; set both to the same values"
        )


def _fitted(params, batch_stats, arrays, task: Task, source_task: Task, same_classes: bool):
    """Returns the parameters and statistics with the values of `arrays` where `arrays` has them, and the report."""
    arrays = [task.start_arrays(source_task, part) for part in arrays]
    source, folded = norms.fold(arrays[0] | arrays[1], {*params, *batch_stats}, norms.OUR_EPSILON)
    new, old = ({name: source[name] for name in part if name in source} for part in arrays)
    params, report = inflate(params, new, task.config.start.planes, head=same_classes, by_class=task.by_class)
    batch_stats, _ = inflate(batch_stats, old, task.config.start.planes)
    report.norms = norms.folded(folded)
    return params, batch_stats, report


def check_planes(planes: str) -> None:
    """Checks the name of a way to inflate kernels.

    Raises:
      InputError: `planes` is not in PLANES.
    """
    if planes not in PLANES:
        raise InputError(f"start.planes={planes!r} is unknown; choose one of {', '.join(PLANES)}")


def check_blocks_can_learn(model: nnx.Module, params: FlatParams) -> None:
    """Checks that no new non-local block is frozen as the identity.

    The norm of a new block has a scale of zero, so the block is the identity. A frozen norm would keep the zero.

    Args:
      model: the network. Its arrays can be shapes.
      params: parameters by name.

    Raises:
      InputError: a block would stay the identity.
    """
    _check_blocks(model, lambda name: np.asarray(params[name]).any())


def _check_blocks(model: nnx.Module, is_trained: Callable[[str], bool]) -> None:
    for path, module in nnx.iter_modules(model):
        if isinstance(module, NonLocalBlock) and getattr(module.norm, "kind", "") == "frozen":
            name = "/".join(map(str, (*path, "norm", "scale")))
            if not is_trained(name):
                raise InputError(
                    f"{name} is zero and frozen, so the block would stay the identity: start from a network that has "
                    "it, or set model.nonlocal_options.norm=batch, which takes its statistics from the batch"
                )
