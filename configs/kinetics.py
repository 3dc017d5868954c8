"""The paper's recipe on a folder of Kinetics videos, trimmed and resized to a short side of 256.

    python -m experiments.train --config=configs/kinetics.py:nl5_i3d_r50 --workdir=runs/nl5_i3d_r50 \
        --config.data.train=TRAIN --config.data.validation=VAL --config.data.test=VAL --config.start.workdir=IMAGENET

Rows start from an image network of the same depth: train one with `configs/kinetics.py:imagenet_r50` on a folder of
images, or leave `start.workdir` empty to train from scratch. Paper, top-1 on Kinetics-400 validation: table 2f.
"""

from configs import common

NL5 = {"model.nonlocal_preset": 5}
I3D = {"model.inflate": "3x1x1"}
R101 = {"model.depth": 101}
# An image is a clip of one frame. The usual 90 epochs of ImageNet at batch 256.
IMAGENET = {
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

ROWS = {  # name: changes; the paper's top-1 and top-5
    "nl5_i3d_r50": I3D | NL5,  # 74.9 / 91.6
    "i3d_r50": I3D,  # 73.3 / 90.7
    "nl5_c2d_r50": NL5,  # 73.8 / 91.0
    "c2d_r50": {},  # 71.8 / 89.7
    "nl5_i3d_r101": R101 | I3D | NL5,  # 76.0 / 92.1
    "i3d_r101": R101 | I3D,  # 74.4 / 91.1
    "nl5_c2d_r101": R101 | NL5,  # 75.1 / 91.7
    "c2d_r101": R101,  # 73.1 / 91.0
    "imagenet_r50": IMAGENET,
    "imagenet_r101": R101 | IMAGENET,
}


def get_config(argument: str = ""):
    changes, _ = common.choose(argument, ROWS)
    config = common.base()
    config.data = common.video_folder()
    config.num_classes = 400
    config.num_workers = 8
    return common.update(config, changes)
