"""Opens the dataset of `config.data` for images with boxes, which nl_jax draws itself or which is in COCO's format.

The module needs `pycocotools`.
"""

from pathlib import Path

from ml_collections import ConfigDict

from nl_jax.data.coco.detection import DetectionImages
from nl_jax.data.coco.folder import CocoFolder
from nl_jax.data.coco.source import EXPORTED, find_splits, parts_of
from nl_jax.data.embedded.poses import Poses
from nl_jax.data.embedded.scenes import Scenes
from nl_jax.errors import InputError
from nl_jax.places import check_local, is_bucket
from nl_jax.tasks import splits
from nl_jax.training.task import SPLITS

GIVEN = "FILE.json beside its images, IMAGES:FILE.json, or DIR:SPLIT in COCO's layout or as prepare_data wrote it"


def open_images(
    config: ConfigDict, split: str, classes: tuple[str, ...] | None = None, *, masks: bool, keypoints: bool = False
) -> DetectionImages:
    """Returns the train, validation or test split of `config.data`.

    Args:
      config: `config.data`.
      split: train, validation or test.
      classes: the class names that the data must have. By default any names are valid.
      masks: whether examples have masks.
      keypoints: whether examples have keypoints.

    Raises:
      InputError: the name of the dataset is unknown, or the dataset cannot be opened.
    """
    fields = config.to_dict()
    name = fields.pop("name")
    if name not in SOURCES:
        raise InputError(f"data.name={name!r} is unknown; choose one of {', '.join(SOURCES)}")
    return SOURCES[name](fields, split, classes, masks, keypoints)


def open_coco(path: str, **options) -> DetectionImages:
    """Returns the dataset of a path.

    Args:
      path: FILE.json, IMAGES:FILE.json or DIR:SPLIT.
      options: arguments of `CocoFolder` and `PreparedCoco`.

    Raises:
      InputError: `path` has another form, or the dataset cannot be opened.
    """
    first, colon, last = path.rpartition(":")
    if not is_bucket(first):
        why = "images are read from a file system; a bucket can hold a dataset that prepare_data wrote, DIR:SPLIT"
        check_local("data", path, why)
    if last.endswith(".json"):
        return CocoFolder(*parts_of(path), **options)
    if not colon:
        raise InputError(f"{path} is no annotation file and no DIR:SPLIT; valid are {GIVEN}")
    directory, kind = Path(first), "person_keypoints" if options.get("keypoints") else "instances"
    if not is_bucket(first) and ((directory / "annotations").is_dir() or (directory / last / EXPORTED).exists()):
        return CocoFolder(*find_splits(directory, kind, last)[last], **options)
    from nl_jax.data.coco.records import PreparedCoco  # imports TFDS, which a folder does not need
    from nl_jax.data.records.read import find_prepared

    if not is_bucket(first):
        try:
            find_prepared(first)
        except InputError as error:
            layouts = f"annotations/{kind}_{last}.json or {last}/{EXPORTED}"
            raise InputError(f"{error}, or a folder with {layouts}") from error
    return PreparedCoco(first, last, **options)


def _scenes(fields, split, classes, masks, keypoints):
    if keypoints:
        raise InputError("data.name='scenes' has no keypoints; set detector.keypoints=0, or data.name='poses'")
    sizes = {name: fields.pop(f"{name}_size") for name in SPLITS}
    return Scenes(split, size=sizes[split], **fields)


def _poses(fields, split, classes, masks, keypoints):
    if not keypoints:
        raise InputError("data.name='poses' has keypoints and no masks; set detector.keypoints=17")
    sizes = {name: fields.pop(f"{name}_size") for name in SPLITS}
    return Poses(split, size=sizes[split], **fields)


def _coco(fields, split, classes, masks, keypoints):
    paths = {name: fields.pop(name) for name in SPLITS}
    path = splits.path_of(paths, split, GIVEN)
    options = {"training": split == "train", "classes": classes, "masks": masks, "keypoints": keypoints}
    return open_coco(path, **options, **fields)


SOURCES = {"scenes": _scenes, "poses": _poses, "coco": _coco}
