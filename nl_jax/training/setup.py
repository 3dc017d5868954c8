"""From config fields to a network and data sets. Nothing below `training` sees a config object."""

from operator import attrgetter
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from nl_jax.data.long_range import LongRange
from nl_jax.data.open import open_videos
from nl_jax.errors import InputError
from nl_jax.evaluation.views import check_views
from nl_jax.models import ResNetConfig
from nl_jax.models.resnet import nonlocal_preset
from nl_jax.models.summary import summary
from nl_jax.training import sharding, workdir
from nl_jax.training.accumulate import check_parts
from nl_jax.training.schedule import make_optimizer, make_schedule
from nl_jax.training.step import make_normalize
from nl_jax.weights.inflate import PLANES

SPLITS = ("train", "validation", "test")
# The numbers of a run by their range; those of the network are checked by ResNetConfig.
RANGES = {
    "1 or more": (
        lambda value: value >= 1,
        (
            *("steps", "batch_size", "eval_batch_size", "precise_bn_batches", "log_every", "checkpoint_every"),
            *("keep_checkpoints", "optimizer.decay_every", "accumulate_steps"),
        ),
    ),
    "0 or more": (
        lambda value: value >= 0,
        (
            *("seed", "num_classes", "eval_every", "num_workers", "keep_every", "skip_nonfinite", "input_timeout"),
            *("model.head_window", "optimizer.learning_rate", "optimizer.weight_decay", "optimizer.clip_norm"),
            *("optimizer.classifier_rate", "optimizer.decay_rate", "optimizer.warmup_steps", "optimizer.warmup_start"),
        ),
    ),
    "more than 0": (lambda value: value > 0, ("input_warning",)),
    "0 to 1": (lambda value: 0 <= value <= 1, ("max_bad_videos",)),
    "0 up to, not including, 1": (lambda value: 0 <= value < 1, ("optimizer.momentum",)),
}


def check_run(config: ConfigDict, directory: Path):
    """The mesh, the data sets by split and the network's summary, or InputError for what cannot be run.

    Nothing is written, and nothing trained: of a chain every stage is checked before the first one begins.
    """
    for valid, (is_valid, names) in RANGES.items():
        for name in names:
            if not is_valid(value := attrgetter(name)(config)):
                raise InputError(f"{name}={value} is out of range; choose {valid}")
    if config.keep_every % config.checkpoint_every:
        raise InputError(f"keep_every={config.keep_every} is no multiple of checkpoint_every={config.checkpoint_every}")
    make_normalize(config.input)
    make_optimizer(config.optimizer, make_schedule(config.optimizer, config.steps))
    mesh = sharding.make_mesh(**config.mesh)
    check_batch_size(config, mesh)
    sharding.check_batch("eval_batch_size", config.eval_batch_size, mesh)
    if config.start.planes not in PLANES:
        raise InputError(f"start.planes={config.start.planes!r} is unknown; choose one of {', '.join(PLANES)}")
    train_set = make_dataset(config.data, "train")
    classes = train_set.classes
    if config.num_classes and config.num_classes != len(classes):
        raise InputError(f"num_classes={config.num_classes}, but the training data has {len(classes)} classes")
    resnet = make_resnet_config(config.model, len(classes))
    check_parts(config.batch_size, config.accumulate_steps, resnet)
    clip = train_set.train_example(0, np.random.default_rng(0))["video"].shape[:3]
    try:
        description = summary(resnet, clip)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"the network does not fit clips of shape {clip}: {error}") from error
    if config.mesh.time > 1:
        sharding.check_frames(resnet.frames(clip[0]), mesh)
    workdir.check(directory, config, train_set)
    tested = [make_dataset(config.data, split, classes) for split in SPLITS[1:]]
    for dataset in tested:
        check_views(dataset)
    return mesh, (train_set, *tested), description


def check_batch_size(config: ConfigDict, mesh: Mesh) -> None:
    """Raises InputError unless the clips of a step divide over the mesh and into the groups of batch norm."""
    sharding.check_batch("batch_size", config.batch_size, mesh, config.accumulate_steps)
    model = config.model
    if model.norm == "batch" and config.batch_size > model.group_size and config.batch_size % model.group_size:
        raise InputError(f"batch_size={config.batch_size} is not a multiple of model.group_size={model.group_size}")


def make_resnet_config(config: ConfigDict, num_classes: int) -> ResNetConfig:
    """`config.model` as the network's own configuration; its empty strings and tuples mean "not given"."""
    fields = config.to_dict()
    fields["nonlocal_blocks"] = {stage: tuple(at) for stage, at in fields["nonlocal_blocks"].items() if at}
    if preset := fields.pop("nonlocal_preset", 0):
        if fields["nonlocal_blocks"]:
            raise InputError("model.nonlocal_preset and model.nonlocal_blocks are both given; choose one")
        fields["nonlocal_blocks"] = nonlocal_preset(fields["depth"], preset)
    options = {name: _option(name, value) for name, value in fields["nonlocal_options"].items() if value != "default"}
    by_stage = fields.pop("nonlocal_time_group")
    options |= {stage: {"time_group": frames} for stage, frames in by_stage.items() if frames}
    fields["nonlocal_options"] = options
    for name in ("blocks_per_stage", "inflate", "head_window"):
        fields[name] = fields[name] or None
    result = ResNetConfig(**fields, num_classes=num_classes)
    result.check()
    return result


def make_dataset(config: ConfigDict, split: str, classes: tuple[str, ...] | None = None):
    """The train, validation or test split of `config.data`; `classes` fixes the order of the labels."""
    fields = config.to_dict()
    name = fields.pop("name")
    if name not in DATASETS:
        raise InputError(f"data.name={name!r} is unknown; choose one of {', '.join(DATASETS)}")
    return DATASETS[name](fields, split, classes)


def _long_range(fields, split, classes):
    sizes = {name: fields.pop(f"{name}_size") for name in SPLITS}
    return LongRange(split, size=sizes[split], **fields)


def _video_folder(fields, split, classes):
    paths = {name: fields.pop(name) for name in SPLITS}
    if not paths["train"]:
        raise InputError("data.train is empty: give a folder with one sub-folder per class, or a CSV of path,label")
    for name in ("clips", "crops"):
        validation = fields.pop(f"validation_{name}")
        if split == "validation":
            fields[f"num_{name}"] = validation
    # A user with one folder only sees how well it is fitted; the loop says which split a figure comes from.
    return open_videos(paths[_shown(paths, split)], classes=classes, **fields)


def measured_on(config: ConfigDict, split: str) -> str:
    """What a figure of this split is measured on, for a video folder whose split was not given."""
    if config.name != "video_folder" or config[split]:
        return f"the {split} split"
    shown = {"train": "training", "validation": "validation"}[_shown(config, split)]
    return f"the {shown} videos (data.{split} is not given)"


def _shown(paths, split: str) -> str:
    """The split whose videos stand for `split`: itself, for a test the validation ones, or the training ones."""
    order = {"train": ("train",), "validation": ("validation", "train"), "test": ("test", "validation", "train")}
    return next(name for name in order[split] if paths[name])


def _option(name: str, value: str):
    if name == "subsample" and value == "none":
        return None
    if name == "scale" and value != "rsqrt_d":
        try:
            return float(value)
        except ValueError:
            raise InputError(f"nonlocal_options.scale={value!r} is unknown; choose a number or 'rsqrt_d'") from None
    return value


DATASETS = {"long_range": _long_range, "video_folder": _video_folder}
