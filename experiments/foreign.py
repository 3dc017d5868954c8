"""Loads a network with the weights of another program, and defines the flags that describe this network."""

import re
from pathlib import Path

from absl import flags
from flax import nnx
from ml_collections import ConfigDict, config_flags

from experiments import command_line
from nl_jax.data.sources.listing import read_lines
from nl_jax.errors import InputError
from nl_jax.models import MaskRCNN, VideoResNet
from nl_jax.runs.config_files import load_config
from nl_jax.tasks import task_of
from nl_jax.training.task import Task
from nl_jax.weights import SOURCES, Report, detector, load
from nl_jax.weights.own import classes_of
from nl_jax.zoo import Entry, class_names
from nl_jax.zoo.pretrained import pretrained

EVERY_SOURCE = {**detector.SOURCES, **SOURCES}

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "config of the network: FILE.py, or FILE.py:ROW for one of its rows", lock_config=True
)
SOURCE = flags.DEFINE_enum(
    "source",
    None,
    EVERY_SOURCE,
    "program that wrote the file of weights; by default the program finds it from the names of the arrays",
)
NUM_CLASSES = flags.DEFINE_integer(
    "num_classes", None, "number of classes of the network; by default as in the config", 1
)
CLASSES = flags.DEFINE_string(
    "classes",
    None,
    "text file with one class name a line, in the order of the labels; by default the names are 0, 1, ..",
)
CHECK_GEOMETRY = flags.DEFINE_bool("check_geometry", True, "refuse weights of a network with another geometry")
INFLATE_2D = flags.DEFINE_bool(
    "inflate_2d", False, "inflate the 2-D kernels of the file in time; files of torchvision are always inflated"
)
MODEL = flags.DEFINE_string(
    "model", None, "published network: a name of nl_jax.zoo; it needs no --config and no --source"
)

# The flags that describe a network whose weights are in a file.
OF_FILE = ("config", "source", "num_classes", "classes", "check_geometry", "inflate_2d")


def check_published() -> None:
    """Raises InputError if a flag describes the network, because --model describes it."""
    command_line.refuse_flags(*OF_FILE, why="with --model, which describes the network, its source and its classes")


def import_network(path: str | None) -> tuple[VideoResNet | MaskRCNN, ConfigDict, tuple[str, ...], Report]:
    """Returns the network of --config with the weights of a file, or the network of --model.

    Args:
      path: the file of weights; None downloads the weights of --model.

    Returns:
      The network, its config, its classes, and the report on the weights.

    Raises:
      InputError: the flags do not describe a network, or the file does not fit it.
    """
    if MODEL.value is not None:
        return _published(path)
    if CONFIG.value is None or path is None:
        raise InputError(
            "give --model for a published network, or give a file of weights and --config, which describes its network"
        )
    config = CONFIG.value
    classes = _classes(config.num_classes, path)
    config.num_classes = len(classes)
    model, report = _load(path, task_of(config), len(classes))
    if report.source:  # a file of nl_jax's own names has none: its network was trained with this config
        source = EVERY_SOURCE[report.source]
        config.input.mean, config.input.std = source.mean, source.std
    return model, config, classes, report


def _published(path: str | None) -> tuple[VideoResNet | MaskRCNN, ConfigDict, tuple[str, ...], Report]:
    """Returns the network of --model, from `path` or from the cache, with the whole config of its row."""
    check_published()
    found = pretrained(MODEL.value, path)
    return found.model, config_of_row(found.entry), found.classes, found.report


def config_of_row(entry: Entry) -> ConfigDict:
    """Returns the config of the row that an entry names, with the fields of the entry and the settings for training."""
    config = load_config(entry.row)
    config.update_from_flattened_dict(dict(entry.fields))
    config.num_classes = len(class_names(entry.classes))
    return config


def _load(path: str, task: Task, num_classes: int) -> tuple[VideoResNet | MaskRCNN, Report]:
    """Returns the network with the weights of the file. The network is initialized only if the file lacks arrays."""

    def build():
        return task.build(num_classes, nnx.Rngs(task.config.seed))

    options = {"check_geometry": CHECK_GEOMETRY.value, "inflate_2d": INFLATE_2D.value}
    model = nnx.eval_shape(build)
    try:
        report = load(model, path, SOURCE.value, **options)
    except InputError as error:
        raise InputError(as_flags(str(error))) from error
    if report.left_at_init:
        model = build()
        load(model, path, SOURCE.value, **options)
    return model, report


def as_flags(message: str) -> str:
    """Replaces the Python arguments in a message of `nl_jax.weights` with the flags that set them."""
    for pattern, flag in _FLAGS:
        message = re.sub(pattern, flag, message)
    return message


_FLAGS = (
    (r"\bsource='(\w+)'", r"--source=\1"),
    (r"\bcheck_geometry=False\b", "--nocheck_geometry"),
    (r"ask for the kernels of the file to be inflated in time", "--inflate_2d for its kernels to be inflated in time"),
    (r"\bset inflate=None", "set --config.model.inflate="),
    (r"\bset nonlocal_blocks=\{(.*?)\}", lambda found: "set " + _blocks(found[1])),
    (r"\bset (geometry|inflate)='(\w+)'", r"set --config.model.\1=\2"),
    (
        r"\bset (width|depth|blocks_per_stage)=(\(.*?\)|\d+)",
        lambda found: f"set --config.model.{found[1]}={found[2].replace(' ', '')}",
    ),
    (r"\bset nonlocal_options", "set --config.model.nonlocal_options"),
)


def _blocks(positions: str) -> str:
    """Returns the flags for a text such as `'res3': (0, 1), 'res4': (1,)`."""
    found = re.findall(r"'(res\d)': (\(.*?\))", positions)
    return " ".join(f"--config.model.nonlocal_blocks.{stage}={at.replace(' ', '')}" for stage, at in found)


def _classes(in_config: int, path: str) -> tuple[str, ...]:
    """Returns the names of --classes or of the file, or else the numbers below --num_classes or config.num_classes."""
    count = NUM_CLASSES.value
    if CLASSES.value is None:
        names = classes_of(path)
        if names and (count or in_config) in (0, None, len(names)):
            return names
        if not (count or in_config):
            raise InputError("num_classes=0 in the config; give --num_classes or --classes")
        return tuple(map(str, range(count or in_config)))
    path = Path(CLASSES.value)
    if not path.is_file():
        raise InputError(f"--classes: there is no file {path}")
    names = tuple(line for _, line in read_lines(path))
    if not names or len(set(names)) < len(names):
        raise InputError(
            f"--classes: {path} has {len(names)} names, {len(set(names))} of them different; give different names"
        )
    if count not in (None, len(names)):
        raise InputError(
            f"--num_classes={count} and the {len(names)} names in --classes={path} differ; leave out --num_classes"
        )
    return names
