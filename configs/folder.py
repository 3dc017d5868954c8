"""A small network for your own videos: a folder with one sub-folder per class, or a CSV file of `path,label` lines.

    python -m experiments.train --config=configs/folder.py --workdir=runs/folder --config.data.train=VIDEOS

Without `data.validation` and `data.test` the run measures its figures on the training videos, and the output says so.
The rows are one network with and without non-local blocks (nl), and with and without kernels in time (i3d and c2d).
The row images is the network nl_c2d for images: a folder with one sub-folder of images per class. A clip is one image.
"""

from configs import common

NL = {"model.nonlocal_blocks.res3": (0,), "model.nonlocal_blocks.res4": (0,)}
ROWS = {
    "nl_i3d": NL | {"model.inflate": "3x1x1"},
    "i3d": {"model.inflate": "3x1x1"},
    "nl_c2d": NL,
    "c2d": {},
    "images": NL | {"data.frames": 1, "data.stride": 1, "data.num_clips": 1},
}


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    changes, _ = common.parse_row(argument, ROWS)
    config = common.base()
    config.data = common.video_data()
    config.steps = 200
    config.batch_size = 8
    config.log_every = 10
    config.checkpoint_every = 100
    config.eval_every = 0
    config.precise_bn_batches = 10

    config.data.frames = 8
    config.data.stride = 4
    config.data.short_side = (72, 88)
    config.data.crop = 64
    config.data.test_short_side = 72
    config.data.test_crop = 64

    config.model.blocks_per_stage = (1, 1, 1)
    config.model.width = 16
    config.model.geometry = "small"
    config.model.dropout = 0.2

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.weight_decay = 1e-2
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 20
    return common.update(config, changes)
