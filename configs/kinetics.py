"""The paper's recipe on Kinetics videos, trimmed and resized to a short side of 256.

    python -m experiments.train --config=configs/kinetics.py:nl5_i3d_r50 --workdir=runs/nl5_i3d_r50 \
        --config.data.train=TRAIN --config.data.validation=VAL --config.data.test=VAL \
        --config.images.train=IMAGES --config.images.validation=VAL_IMAGES

A row starts from the image network of the same depth: imagenet_r50 or imagenet_r101. The command trains this network
first, on a folder of images. `--config.start.workdir=DIR` starts from a finished image network instead.
`--config.start.stage=` trains from scratch. The rows of configs/table2a.py to configs/table4.py are these networks with
a few changes.
"""

from configs import common, laptop

NL5 = {"model.nonlocal_preset": 5}
I3D = {"model.inflate": "3x1x1"}
R50 = {"start.stage": "configs/kinetics.py:imagenet_r50"}
R101 = {"model.depth": 101, "start.stage": "configs/kinetics.py:imagenet_r101"}
# An image is a clip of one frame. 450,000 steps are the usual 90 epochs of ImageNet with batches of 256.
IMAGENET = {
    "start.stage": "",
    "data.frames": 1,
    "data.stride": 1,
    "data.num_clips": 1,
    "data.num_crops": 1,
    "data.test_crop": 224,
    "num_classes": 1000,
    "batch_size": 256,
    "steps": 450_000,
    "optimizer.learning_rate": 0.1,
    "optimizer.decay_every": 150_000,
    "model.dropout": 0.0,
}
# Clips of 128 consecutive frames. The run starts from the network of 32 frames with frozen batch norm (section 5.1).
LONG = {
    "data.frames": 128,
    "data.stride": 1,
    "batch_size": 16,
    "optimizer.learning_rate": 0.0025,
    "model.norm": "frozen",
}

ROWS = {
    "nl5_i3d_r50": R50 | I3D | NL5 | {"paper": (74.9, 91.6)},
    "i3d_r50": R50 | I3D | {"paper": (73.3, 90.7)},
    "nl5_c2d_r50": R50 | NL5 | {"paper": (73.8, 91.0)},
    "c2d_r50": R50 | {"paper": (71.8, 89.7)},
    "nl5_i3d_r101": R101 | I3D | NL5 | {"paper": (76.0, 92.1)},
    "i3d_r101": R101 | I3D | {"paper": (74.4, 91.1)},
    "nl5_c2d_r101": R101 | NL5 | {"paper": (75.1, 91.7)},
    "c2d_r101": R101 | {"paper": (73.1, 91.0)},
    "imagenet_r50": R50 | IMAGENET,
    "imagenet_r101": R101 | IMAGENET,
}


def row_of(rows: dict[str, dict], argument: str):
    """Returns the paper's recipe with the changes of a row. With the flag `laptop` it returns the small counterpart."""
    changes, flags = common.parse_row(argument, rows, ("laptop",))
    if flags:
        return laptop.counterpart(changes)
    config = common.base()
    config.data = common.video_data()
    config.num_classes = 400
    config.num_workers = 8
    return common.update(config, changes)


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    return row_of(ROWS, argument)
