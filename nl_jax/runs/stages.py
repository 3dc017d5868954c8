"""Trains a config, after the stage from which it starts: first images, then clips, then long clips."""

from collections.abc import Iterator
from contextlib import contextmanager

from ml_collections import ConfigDict

from nl_jax.errors import InputError
from nl_jax.places import Place, make_directory, place
from nl_jax.runs.config_files import load_config
from nl_jax.tasks import task_of
from nl_jax.training import loop, recipe, workdir
from nl_jax.training.logs import make_console
from nl_jax.training.processes.lock import only_run
from nl_jax.training.setup import Setup, check_run
from nl_jax.training.start import Start, check_stage
from nl_jax.training.task import Results
from nl_jax.zoo.start import StartFromPublished

# Fields that distinguish a ResNeXt from a ResNet, with the values of a ResNet.
RESNEXT = {"groups": 1, "width_per_group": 64, "stride_on_1x1": False}


def train_chain(config: ConfigDict, directory: Place | str, profile_steps: tuple[int, int] | None = None) -> Results:
    """Trains the stage from which the config starts, if it is not trained yet. Then trains the config.

    Args:
      config: the config of the last stage.
      directory: the workdir of the last stage. The workdir of the stage before it is `directory`/start.
      profile_steps: steps of the last stage to profile, see `train`.

    Returns:
      The test metrics of the last stage.

    Raises:
      InputError: the config of a stage cannot be run. The error is raised before the first stage is trained.
      TrainingError: the loss is not finite, or a checkpoint cannot be saved.
      Preempted: the run was asked to stop by SIGTERM or Ctrl-C, and its state is saved.
    """
    directory = place("workdir", directory)
    if _has_stage_to_train(config, directory):
        check_chain(config, directory)  # finds errors before a stage trains for hours
    return _train_stages(config, directory, profile_steps)


def check_chain(config: ConfigDict, directory: Place) -> Setup:
    """Checks every stage that is not trained yet, and returns the set-up of the last stage. It writes nothing.

    Args:
      config: the config of the last stage.
      directory: the workdir of the last stage.

    Raises:
      InputError: the config of a stage cannot be run.
    """
    _published(config)
    task = task_of(recipe.at_batch_size(config))
    setup = check_run(task, directory)
    if _has_stage_to_train(config, directory):
        stage = stage_of(config)
        with _naming(config.start.stage):
            before = check_chain(stage, directory / "start")
        source = task_of(recipe.at_batch_size(stage))
        check_stage(task, len(setup.train_set.classes), source, len(before.train_set.classes))
    return setup


def _train_stages(config: ConfigDict, directory: Place, profile_steps: tuple[int, int] | None) -> Results:
    if _published(config) or config.start.workdir or not config.start.stage:
        return train(config, directory, start_of(config, directory), profile_steps)
    start, stage = directory / "start", stage_of(config)
    if not _has_stage_to_train(config, directory):
        before = task_of(recipe.at_batch_size(stage))
        workdir.check_workdir(start, before, before.open_split("train"))
        return train(config, directory, start, profile_steps)
    make_directory(directory)
    with only_run(directory):
        with _naming(config.start.stage):
            _train_stages(stage, start, None)
        return train(config, directory, start, profile_steps)


def _published(config: ConfigDict) -> StartFromPublished | None:
    """Returns the published network that the config starts from, or None."""
    if not (name := config.start.get("model")):
        return None
    if config.start.workdir:
        raise InputError("start.model and start.workdir are both given; choose one")
    return StartFromPublished(name)


def start_of(config: ConfigDict, directory: Place) -> Start | None:
    """Returns the network from which a run in the workdir `directory` starts, or None.

    Raises:
      InputError: the config names two networks, or the workdir of the network cannot be read.
    """
    if published := _published(config):
        return published
    if config.start.workdir:
        source = place("start.workdir", config.start.workdir)
    elif config.start.stage:
        source = directory / "start"
    else:
        return None
    return Start(source, task_of(workdir.read_config(source)))


def _has_stage_to_train(config: ConfigDict, directory: Place) -> bool:
    stage = config.start.stage and not config.start.workdir and not config.start.get("model")
    return bool(stage) and not (directory / "start" / "results.json").exists()


@contextmanager
def _naming(stage: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{stage}, the stage before: {error}") from error


def train(
    config: ConfigDict,
    directory: Place,
    start_from: Place | Start | None = None,
    profile_steps: tuple[int, int] | None = None,
) -> Results:
    """Trains one config, or continues from the last checkpoint of an earlier call; see `loop.train`.

    Args:
      config: a config with the fields of `configs/common.py`, which explains every field.
      directory: the workdir.
      start_from: the network to start from, or its workdir.
      profile_steps: (first step, step after the last) to trace into `directory`/profile.

    Returns:
      The test metrics.

    Raises:
      InputError: the config cannot be run.
      TrainingError: the loss is not finite, or a checkpoint cannot be saved.
      Preempted: the run was asked to stop by SIGTERM or Ctrl-C, and its state is saved.
    """
    scaled = recipe.at_batch_size(config)
    if note := recipe.describe(config, scaled):
        make_console().print(note)
    if start_from is not None and not isinstance(start_from, Start):
        start_from = Start(start_from, task_of(workdir.read_config(start_from)))
    return loop.train(task_of(scaled), directory, start_from, profile_steps)


def stage_of(config: ConfigDict) -> ConfigDict:
    """Returns the config of the stage `config.start.stage`. Fields that both stages share have the values of `config`.

    Raises:
      InputError: the stage cannot be loaded, or it trains on images and `config` does not give their folder.
    """
    stage = load_config(config.start.stage)
    # All stages are carried out in the same way, and parts that both networks have are the same.
    for name in (*workdir.CARRIED_OUT, "seed"):
        stage[name] = config[name]
    if stage.data.get("frames") == 1 or stage.data.get("images"):  # an image has no frames to split
        stage.mesh = ConfigDict(dict(data=-1, fsdp=config.mesh.fsdp, time=1))
    stage.input = config.input
    for name in ("depth", "blocks_per_stage", "width"):
        stage.model[name] = config.model[name]
    with stage.unlocked():
        for name, usual in RESNEXT.items():  # the config of a classifier may lack these fields
            if config.model.get(name, usual) != usual:
                stage.model[name] = config.model[name]
    if stage.data.name == "video_folder" and config.data.name in ("video_folder", "coco"):
        _inherit_videos(stage, config)
    return stage


def _inherit_videos(stage: ConfigDict, config: ConfigDict) -> None:
    """Sets the data of a stage: the videos of `config` for a stage of videos, `config.images` for a stage of images."""
    if config.data.name == "coco" and stage.data.frames != 1:
        raise InputError(
            f"start.stage={config.start.stage} trains on videos, and a detector starts from an image network"
        )
    stage.images = config.images
    paths = config.data
    if stage.data.frames == 1:
        if not config.images.train:
            raise InputError(
                f"images.train is empty: {config.start.stage} needs a folder of images, one sub-folder per class. "
                "Give start.workdir to start from a finished image network, or start.stage= to start from scratch"
            )
        paths = {"train": config.images.train, "validation": config.images.validation, "test": ""}
    for name in ("train", "validation", "test"):
        stage.data[name] = paths[name]
