"""The config of a published network: the fields that a trained network needs, without the fields of training.

The fields have the names and values of `configs/common.py`. So a program takes either this config or the config of a
run. The installed package does not contain the files under `configs`.
"""

from nl_jax.errors import require

require("train", "ml_collections")

from ml_collections import ConfigDict  # noqa: E402

from nl_jax.zoo.classes import class_names  # noqa: E402
from nl_jax.zoo.entry import Entry  # noqa: E402

STAGES = ("res2", "res3", "res4", "res5")
MODEL = {
    "depth": 50,
    "blocks_per_stage": (),
    "width": 64,
    "inflate": "",
    "geometry": "paper",
    "nonlocal_preset": 0,
    "dropout": 0.5,
    "norm": "batch",
    "group_size": 8,
    "head_window": 0,
    "dtype": "float32",
    "remat": (),
}
# The fields that every kind of run has.
COMMON = {"seed": 0, "batch_size": 64, "eval_batch_size": 8, "num_workers": 0, "accumulate_steps": 1}
COMMON |= {"input_warning": 60.0, "input_timeout": 1800.0, "max_bad_videos": 0.2}
VIDEOS = {
    "name": "video_folder",
    "train": "",
    "validation": "",
    "test": "",
    "frames": 32,
    "stride": 2,
    "short_side": (256, 320),
    "crop": 224,
    "flip": True,
    "num_clips": 10,
    "num_crops": 3,
    "starts": "paper",
    "test_short_side": 256,
    "test_crop": 256,
    "validation_clips": 1,
    "validation_crops": 1,
}
IMAGES = {"frames": 1, "stride": 1, "num_clips": 1, "num_crops": 1, "test_crop": 224}
COCO = {
    "name": "coco",
    "train": "",
    "validation": "",
    "test": "",
    "short_sides": (800,),
    "long_side": 1333,
    "test_short_side": 800,
    "max_boxes": 100,
    "flip": True,
}
DETECTOR_MODEL = {"norm": "frozen", "freeze_at": 2, "norm_epsilon": 1e-5}
DETECTOR_MODEL |= {"groups": 1, "width_per_group": 64, "stride_on_1x1": False}
DETECTOR = {"masks": True, "aligned": False, "round_anchors": True, "floor_strides": False}


def config_of(entry: Entry) -> ConfigDict:
    """Returns the config that builds and tests the network of an entry. It is locked."""
    row = entry.row.rpartition(":")[2]
    config = ConfigDict(COMMON | {"num_classes": len(class_names(entry.classes))})
    config.task = "detection" if entry.is_detector else "classification"
    config.model = ConfigDict(MODEL | (DETECTOR_MODEL if entry.is_detector else {}))
    config.model.nonlocal_blocks = ConfigDict(dict.fromkeys(STAGES, ()))
    config.model.nonlocal_time_group = ConfigDict(dict.fromkeys(STAGES, 0))
    options = ("pairwise", "axes", "subsample", "scale", "norm", "variant", *(("init",) if entry.is_detector else ()))
    config.model.nonlocal_options = ConfigDict(dict.fromkeys(options, "default"))
    config.input = ConfigDict({"mean": (0.45, 0.45, 0.45), "std": (0.225, 0.225, 0.225)})
    if entry.is_detector:
        config.data, config.detector = ConfigDict(COCO), ConfigDict(DETECTOR)
    else:
        config.data = ConfigDict(VIDEOS | (IMAGES if row.startswith("imagenet") else {}))
        if row.startswith("imagenet"):
            config.model.dropout = 0.0
    if row.endswith("r101"):
        config.model.depth = 101
    if "i3d" in row:
        config.model.inflate = "3x1x1"
    if row.startswith("nl5"):
        config.model.nonlocal_preset = 5
    with config.unlocked():
        config.update_from_flattened_dict(dict(entry.fields))
    return config.lock()
