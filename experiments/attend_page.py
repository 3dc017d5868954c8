"""`experiments.attend --format=html`: a page to explore what every position looks at, of one network or of several."""

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
from nl_jax.training.normalize import make_normalize
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
    """Writes the page of one video or image of a split, and returns where it is.

    Args:
      directories: workdirs. The networks of all of them are shown, and the first one says which video or image it is.
      view: of the video's test views; an image has one.
      untrained: whether the network of each workdir is shown before its first step, too.
      block: the only one that the page shows; all of them by default.
      position: the first that the page shows, in the first block's input.

    Raises:
      InputError: for workdirs of different data, or a block or position that does not exist.
    """
    tasks = [task_of(workdir.read_config(directory)) for directory in directories]
    first, *others = (_seen(task, directory, split, index) for task, directory in zip(tasks, directories, strict=True))
    for other, directory in zip(others, directories[1:], strict=True):
        if other.keys() != first.keys() or not all(np.array_equal(other[key], first[key]) for key in first):
            raise InputError(
                f"--beside: {split} {tasks[0].example} {index} of {directory} differs from that of {directories[0]}; "
                "networks side by side need the same data fields in their configs"
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
    """The arrays of one example that a network sees."""
    dataset = task.open_split(split, workdir.read_classes(directory))
    if index >= len(dataset):
        raise InputError(f"--beside: the {split} split of {directory} has {len(dataset)} {task.example}s")
    example = dataset.test_example(index)
    return {name: example[name] for name in ("video", "images", "sizes") if name in example}


def _models(directory: Place, untrained: bool) -> Iterator[tuple[str, nnx.Module]]:
    """The networks of a workdir, and what each is called beside the workdir's name."""
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
    """The last part of each path, or all of it where two would be called the same."""
    names = [directory.name for directory in directories]
    return names if len({*names}) == len(names) else [str(directory) for directory in directories]
