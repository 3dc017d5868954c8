"""Writes and reads the files that describe the run of a workdir: the config, the classes, the versions, the data."""

import importlib.metadata
import json
import platform

import jax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from nl_jax.data.dataset import Dataset
from nl_jax.errors import InputError
from nl_jax.models import flat
from nl_jax.places import Place, make_directory, read_text, write_text
from nl_jax.training import sharding
from nl_jax.training.checkpoint import Checkpoints, check_can_hold
from nl_jax.training.task import Task

# Fields that change how a run is carried out, not its result. All stages of a chain share them.
CARRIED_OUT = (
    "mesh",
    "accumulate_steps",
    "eval_batch_size",
    "num_workers",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_every",
    "skip_nonfinite",
    "input_warning",
    "input_timeout",
)
DESCRIPTION = ("recipe_batch_size", "expect", "paper")
PATHS = ("data.train", "data.validation", "data.test", "images.train", "images.validation")
# These fields may differ when a run is resumed. A dataset may move, because its list of examples is compared instead.
FREE_FIELDS = CARRIED_OUT + DESCRIPTION + PATHS
# Fields that were added to configs later, with the values that older runs had without these fields.
ADDED = {
    "loss.label_smoothing": 0.0,
    "loss.mixup": 0.0,
    "data.clips_per_decode": 1,
    "optimizer.decay_at": (),
    "optimizer.cosine_from_start": False,
    "optimizer.ema": 0.0,
}
PACKAGES = ("nl_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "av", "ml_collections")


def check_workdir(workdir: Place, task: Task, train_set: Dataset) -> None:
    """Checks that a workdir is new or belongs to this run.

    Args:
      workdir: the workdir.
      task: the task, with its config.
      train_set: the training examples.

    Raises:
      InputError: the workdir has a run of another config or of other data, or it cannot hold checkpoints. The message
        gives both values of all fields that differ.
    """
    check_can_hold(workdir)
    path = workdir / "config.json"
    if not path.exists():
        return
    found = flatten(_read_json(path))
    trained_on, now = _read_json(workdir / "train_list.json"), _list_of(task, train_set)
    if trained_on is None:
        raise InputError(
            f"{workdir} holds imported weights; to start from them choose another --workdir, and "
            f"--config.start.workdir={workdir}"
        )
    asked = flatten(json.loads(task.config.to_json()))
    added = json.loads(json.dumps(ADDED))
    found |= {name: value for name, value in added.items() if name in asked and name not in found}
    differing = [
        f"{name} was {found.get(name)!r} and is now {asked.get(name)!r}"
        for name in sorted(found.keys() | asked.keys())
        if found.get(name) != asked.get(name) and not {name, name.split(".")[0]} & set(FREE_FIELDS)
    ]
    if differing:
        raise InputError(f"{workdir} holds a run of another config: {'; '.join(differing)}. Choose another --workdir")
    known = read_classes(workdir)
    if known != train_set.classes:
        raise InputError(
            f"{workdir} was trained on the classes {list(known)}, and the data now has {list(train_set.classes)}"
        )
    examples = f"{task.example}s"
    if trained_on != now:
        raise InputError(
            f"{workdir} was trained on {trained_on[examples]} {examples}, list {trained_on['list']}, and data.train "
            f"now has {now[examples]}, list {now['list']}. Choose another --workdir"
        )


def claim_workdir(workdir: Place, task: Task, train_set: Dataset) -> None:
    """Writes the config and the list of the training data of a run.

    Args:
      workdir: a workdir that has passed `check_workdir`.
      task: the task, with its config.
      train_set: the training examples.

    Raises:
      InputError: the workdir cannot be written.
    """
    make_directory(workdir)
    for name, content in task.describes(train_set).items():
        write_json(workdir / name, content)
    write_workdir(workdir, task.config, train_set.classes, train_list=_list_of(task, train_set))


def write_workdir(
    workdir: Place, config: ConfigDict, classes: tuple[str, ...], *, train_list: dict | None = None
) -> None:
    """Writes the files that describe a run. config.json comes last, because it makes a folder a workdir.

    Args:
      workdir: the workdir.
      config: the resolved config.
      classes: class names in label order.
      train_list: the number of training examples and the hash of their list; None for imported weights.

    Raises:
      InputError: the workdir cannot be written.
    """
    make_directory(workdir)
    write_json(workdir / "classes.json", classes)
    write_json(workdir / "versions.json", versions())
    write_json(workdir / "train_list.json", train_list)
    write_json(workdir / "config.json", json.loads(config.to_json()))


def _list_of(task: Task, train_set: Dataset) -> dict[str, int | str]:
    return {f"{task.example}s": len(train_set), "list": train_set.list_hash()}


def write_json(path: Place, content) -> None:
    """Writes a JSON file whole or not at all. If the run is killed while it writes, the old file stays."""
    # Without ASCII escapes, file names with bytes that are not UTF-8 stay as they are.
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _read_json(path: Place):
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def read_config(workdir: Place) -> ConfigDict:
    """Returns the resolved config of a run, locked. Raises InputError if it does not exist or cannot be read."""
    path = workdir / "config.json"
    if not path.exists():
        raise InputError(f"{workdir} holds no config.json: it is not the workdir of a run")
    return ConfigDict(_with_tuples(_read_json(path))).lock()


def read_classes(workdir: Place) -> tuple[str, ...]:
    """Returns the classes of a run in label order. Raises InputError if they cannot be read."""
    return tuple(_read_json(workdir / "classes.json"))


def restore_arrays(
    workdir: Place, task: Task, mesh: Mesh, *, best: bool = False
) -> tuple[nnx.GraphDef, flat.FlatParams, flat.FlatParams]:
    """Returns the graph definition, the parameters and the statistics of a run's network, laid out over the mesh.

    Args:
      workdir: the workdir of the run.
      task: the task of the workdir's config.
      mesh: the devices.
      best: whether to read the best checkpoint by validation. By default it is the newest.

    Raises:
      InputError: the workdir has no such checkpoint, or a file cannot be read.
    """
    graphdef, *arrays = flat.abstract(lambda: task.build(len(read_classes(workdir)), nnx.Rngs(0)))
    like = sharding.laid_out(mesh, arrays)
    return graphdef, *Checkpoints(workdir, read_only=True).restore_model(*like, best=best)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that decide a run's result, and the devices it runs on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    devices = jax.devices()
    return found | {"devices": f"{len(devices)} x {devices[0].device_kind}", "processes": str(jax.process_count())}


def _with_tuples(value):
    """Returns the value with tuples in place of lists. JSON has only lists, and configs have only tuples."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(_with_tuples(item) for item in value) if isinstance(value, list) else value


def flatten(tree: dict, prefix: str = "") -> dict[str, object]:
    """Returns the fields of a nested config by their full names, {"optimizer.learning_rate": 0.1, ..}.

    Args:
      tree: the config as nested dicts.
      prefix: a text before every name.
    """
    result = {}
    for key, value in tree.items():
        result |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return result
