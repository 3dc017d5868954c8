"""`experiments.attend --format=html`: a page that shows the keys of every position of one or several networks."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from flax import nnx

from nl_jax.errors import InputError
from nl_jax.figures import explore
from nl_jax.models import flat
from nl_jax.places import Place
from nl_jax.runs.beginning import first_network
from nl_jax.tasks import restore_network, task_of
from nl_jax.training import sharding, workdir
from nl_jax.training.preprocessing import make_normalize
from nl_jax.training.task import Task


def write(
    path: Place,
    directories: list[Place],
    split: str,
    index: int,
    view: int,
    *,
    untrained: bool,
    block: str | None,
    position: tuple[int, ...] | None,
    count: int,
    title: str,
) -> Place:
    """Writes the page of one video or image of a split, and returns its path.

    Args:
      directories: the workdirs of the networks. The first workdir gives the video or image.
      view: number of a test view of the video; an image has only view 0.
      untrained: whether the page also shows the network of each workdir before its first step.
      block: the only block that the page shows; by default it shows all blocks.
      position: the position that the page shows first, in the input of the first block.

    Raises:
      InputError: the workdirs have different data, or a block or position does not exist.
    """
    tasks = [task_of(workdir.read_config(directory)) for directory in directories]
    first, *others = (_seen(task, directory, split, index) for task, directory in zip(tasks, directories, strict=True))
    for other, directory in zip(others, directories[1:], strict=True):
        if other.keys() != first.keys() or not all(np.array_equal(other[key], first[key]) for key in first):
            raise InputError(
                f"--beside: {split} {tasks[0].example} {index} of {directory} is not the same as in {directories[0]}; "
                "the configs of the two runs need the same fields data.*"
            )
    networks = {}
    for name, directory, task in zip(_names(directories), directories, tasks, strict=True):
        for words, model in _models(directory, untrained):
            networks[name + words] = _rows(task, model, first, view, block)
    if "sizes" in first:
        size = tuple(first["sizes"].tolist())
        page = {"video": first["images"][None], "size": size, "position": position and (0, *position)}
    else:
        page = {"video": first["video"][view], "position": position}
    explore.make_page(networks=networks, title=title, count=count, **page).save(path)
    return path


def _seen(task: Task, directory: Place, split: str, index: int) -> dict[str, np.ndarray]:
    """Returns the arrays of one example that are the input of a network."""
    dataset = task.open_split(split, workdir.read_classes(directory))
    if index >= len(dataset):
        raise InputError(
            f"--{task.example}={index}: the {split} split of {directory} has {task.example}s 0 to {len(dataset) - 1}"
        )
    example = dataset.test_example(index)
    return {name: example[name] for name in ("video", "images", "sizes") if name in example}


def _models(directory: Place, untrained: bool) -> Iterator[tuple[str, nnx.Module]]:
    """Yields the networks of a workdir, each with the words that follow the workdir's name in the page."""
    mesh = sharding.make_mesh(data=-1, fsdp=1)
    makers = {", before training": first_network, ", after training": restore_network}
    for words, make in (makers if untrained else {"": restore_network}).items():
        model = flat.merge(*make(directory, mesh))
        model.eval()
        yield words, model


def _rows(task: Task, model: nnx.Module, seen: dict[str, np.ndarray], view: int, block: str | None):
    if "sizes" in seen:
        batch = {name: jnp.asarray(array)[None] for name, array in seen.items()}
        return explore.rows_in_image(model, task.normalized(batch), batch["sizes"], block)
    video = make_normalize(task.config.input)(jnp.asarray(seen["video"][view])[None])
    return explore.rows_in_video(model, video, block)


def _names(directories: list[Place]) -> list[str]:
    """Returns the last part of each path, or the whole path if two last parts are equal."""
    names = [directory.name for directory in directories]
    return names if len({*names}) == len(names) else [str(directory) for directory in directories]
