"""Published networks with their weights, ready to be called."""

import dataclasses
from pathlib import Path

from nl_jax.errors import require

require("train", "ml_collections")

from flax import nnx  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from nl_jax import weights  # noqa: E402
from nl_jax.errors import InputError  # noqa: E402
from nl_jax.models import MaskRCNN, VideoResNet  # noqa: E402
from nl_jax.tasks import task_of  # noqa: E402
from nl_jax.zoo.cache import fetch  # noqa: E402
from nl_jax.zoo.classes import class_names  # noqa: E402
from nl_jax.zoo.config import config_of  # noqa: E402
from nl_jax.zoo.entry import Entry  # noqa: E402
from nl_jax.zoo.table import find  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A published network.

    Attributes:
      entry: its entry in the table.
      model: the network with its weights, in evaluation mode.
      config: the config that builds and tests it.
      classes: class names by label.
      report: a report on the loaded arrays.
    """

    entry: Entry
    model: VideoResNet | MaskRCNN
    config: ConfigDict
    classes: tuple[str, ...]
    report: weights.Report


def pretrained(name: str, path: str | Path | None = None) -> Pretrained:
    """Returns the network as `from_pretrained` does, with its config and classes.

    Raises:
      InputError: as `from_pretrained`.
    """
    entry = find(name)
    config, classes = config_of(entry), class_names(entry.classes)
    file = fetch(entry) if path is None else Path(path)
    task = task_of(config)
    model = nnx.eval_shape(lambda: task.build(len(classes), nnx.Rngs(config.seed)))
    report = weights.load(model, file)
    if report.left_at_init:
        left = sorted({array.rsplit("/", 1)[0] for array in report.left_at_init})
        raise InputError(f"{file} is not {name}: it lacks {', '.join(left)}")
    model.eval()
    return Pretrained(entry, model, config, classes, report)


def from_pretrained(name: str, path: str | Path | None = None) -> VideoResNet | MaskRCNN:
    """Returns the published network of this name with its weights, in evaluation mode.

    The file is downloaded once and kept under $NL_JAX_HOME or ~/.cache/nl_jax. The network takes normalized inputs:
    `nl_jax.zoo.config.config_of(entry).input` has the mean and the deviation. `nl_jax.Predictor.from_pretrained`
    normalizes videos by itself.

    Args:
      name: a name in `nl_jax.zoo.ENTRIES`.
      path: path of a file to read in place of the published file. The hash of this file is not checked.

    Raises:
      InputError: for an unknown name; for a file that can neither be found nor downloaded (the message says which file
        to put where); for a file with another hash or other arrays.
    """
    return pretrained(name, path).model
