"""The chain of a run: the config it starts from, with what both share."""

from ml_collections import ConfigDict

from experiments import command_line
from nl_jax.errors import InputError
from nl_jax.training import workdir


def stage_of(config: ConfigDict) -> ConfigDict:
    """The config of `config.start.stage` as the run of `config` needs it.

    Raises InputError for a stage of images where `config` does not say where they are.
    """
    stage = command_line.load_config(config.start.stage)
    # What says how a run is carried out holds for the whole chain, and so does what both networks share.
    for name in (*workdir.CARRIED_OUT, "seed"):
        stage[name] = config[name]
    if stage.data.frames == 1 or stage.data.get("images"):  # an image has no frames to split
        stage.mesh = ConfigDict(dict(data=-1, fsdp=config.mesh.fsdp, time=1))
    stage.input = config.input
    for name in ("depth", "blocks_per_stage", "width"):
        stage.model[name] = config.model[name]
    if stage.data.name == config.data.name == "video_folder":
        _inherit_videos(stage, config)
    return stage


def _inherit_videos(stage: ConfigDict, config: ConfigDict) -> None:
    """A stage of videos is trained on the same ones, a stage of images on those of `config.images`."""
    stage.images = config.images
    paths = config.data
    if stage.data.frames == 1:
        if not config.images.train:
            raise InputError(
                f"images.train is empty: {config.start.stage} needs a folder of images, one sub-folder per class. "
                "start.workdir takes a finished image network in its place, start.stage= starts from scratch"
            )
        paths = {"train": config.images.train, "validation": config.images.validation, "test": ""}
    for name in ("train", "validation", "test"):
        stage.data[name] = paths[name]
