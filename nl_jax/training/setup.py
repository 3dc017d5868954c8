"""Checks that a run can be carried out, before anything is written or trained."""

import dataclasses

from jax.sharding import Mesh

from nl_jax.data.dataset import Dataset
from nl_jax.errors import InputError
from nl_jax.models import ResNetConfig
from nl_jax.models.summary import Summary
from nl_jax.places import Place
from nl_jax.training import sharding
from nl_jax.training.fields import LARGEST, check_lists, check_ranges
from nl_jax.training.optimizer import make_schedule
from nl_jax.training.start import check_planes
from nl_jax.training.task import SPLITS, Example, Task
from nl_jax.training.workdir import check_workdir

# The valid range of each number in a config.
NUMBERS = {
    "steps": f"1 to {LARGEST}",
    "batch_size": "1 or more",
    "eval_batch_size": "1 or more",
    "precise_bn_batches": "1 or more",
    "log_every": "1 or more",
    "checkpoint_every": "1 or more",
    "keep_checkpoints": "1 or more",
    "accumulate_steps": "1 or more",
    "optimizer.decay_every": f"1 to {LARGEST}",
    "seed": f"0 to {2**32 - 1}",
    "num_classes": "0 or more",
    "eval_every": "0 or more",
    "num_workers": "0 or more",
    "keep_every": "0 or more",
    "skip_nonfinite": "0 or more",
    "input_timeout": "0 or more",
    "optimizer.learning_rate": "0 or more",
    "optimizer.weight_decay": "0 or more",
    "optimizer.clip_norm": "0 or more",
    "optimizer.decay_rate": "0 or more",
    "optimizer.warmup_steps": "0 or more",
    "optimizer.warmup_start": "0 or more",
    "input_warning": "more than 0",
    "max_bad_videos": "0 to 1",
    "optimizer.momentum": "0 up to, not including, 1",
    "optimizer.ema": "0 up to, not including, 1",
}


@dataclasses.dataclass(frozen=True)
class Setup:
    """The parts of a run that has passed its checks.

    Attributes:
      mesh: the devices.
      train_set, validation_set, test_set: the datasets.
      example: shapes of the arrays of a training example that the loss needs. The other arrays of a batch stay on the
        host.
      summary: layers and cost of the network.
    """

    mesh: Mesh
    train_set: Dataset
    validation_set: Dataset
    test_set: Dataset
    example: Example
    summary: Summary


def check_run(task: Task, directory: Place) -> Setup:
    """Checks that a run is possible, and returns its parts. It writes and trains nothing.

    In a chain of runs, all runs are checked before the first one begins.

    Args:
      task: the task, with its config.
      directory: the workdir.

    Raises:
      InputError: the run is not possible.
    """
    config = task.config
    check_ranges(config, NUMBERS)
    check_lists(config)
    if config.paper and len(config.paper) != (count := task.paper.count("{}")):
        raise InputError(f"paper={config.paper} must be {count} numbers, for {task.paper.format(*'.' * count)}")
    if config.keep_every % config.checkpoint_every:
        raise InputError(f"keep_every={config.keep_every} is no multiple of checkpoint_every={config.checkpoint_every}")
    task.check()
    task.optimizer(make_schedule(config.optimizer, config.steps))
    mesh = sharding.make_mesh(**config.mesh)
    sharding.check_batch("batch_size", config.batch_size, mesh, config.accumulate_steps)
    sharding.check_batch("eval_batch_size", config.eval_batch_size, mesh)
    check_planes(config.start.planes)
    train_set = task.open_split("train")
    classes = train_set.classes
    if config.num_classes and config.num_classes != len(classes):
        raise InputError(f"num_classes={config.num_classes}, but the training data has {len(classes)} classes")
    example = task.example_shapes(train_set)
    summary = task.summary(len(classes), example)
    task.check_mesh(mesh, len(classes), example)
    check_workdir(directory, task, train_set)
    return Setup(mesh, train_set, *(task.open_split(split, classes) for split in SPLITS[1:]), example, summary)


def check_parts(batch_size: int, parts: int, resnet: ResNetConfig) -> None:
    """Checks that the parts of a batch together give the same result as the whole batch.

    Args:
      batch_size: examples in the batch.
      parts: number of parts of a step.
      resnet: config of the network.

    Raises:
      InputError: the parts are not equal, or the parts would have other batch norm statistics.
    """
    if parts == 1:
        return
    if batch_size % parts:
        raise InputError(f"accumulate_steps={parts} does not divide batch_size={batch_size}")
    if "global" in resnet.norms():
        raise InputError(
            f"accumulate_steps={parts} with norm='global', whose statistics are of the whole batch at once; "
            "choose norm='batch' or accumulate_steps=1"
        )
    if "batch" in resnet.norms() and batch_size // parts % resnet.group_size:
        fitting = [n for n in range(1, parts + 1) if batch_size % (n * resnet.group_size) == 0] or [1]
        raise InputError(
            f"accumulate_steps={parts} cuts a batch of {batch_size} into parts that are not whole groups of "
            f"{resnet.group_size} examples for batch norm; use one of {fitting}"
        )
