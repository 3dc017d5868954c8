"""Table 5: Mask R-CNN on COCO, with one block before the last residual block of res4.

    python -m experiments.train --config=configs/table5.py:r50_block --workdir=runs/table5_r50_block \\
        --config.data.train=COCO:train2017 --config.data.validation=COCO:val2017 --config.data.test=COCO:val2017 \\
        --config.images.train=IMAGES --config.images.validation=VAL_IMAGES

Result of the paper: the block raises box AP and mask AP of every backbone by about 1 point. `paper` holds box AP, AP50,
AP75 and mask AP, AP50, AP75. COCO is the folder with `annotations`, `train2017` and `val2017`.

The flag `1x` trains for 90,000 steps and `2x` for 180,000 steps. The default is `1x`. The paper does not state the
schedule of R50 and R101. Its baselines lie between the two schedules. X152 has its own schedule. A row starts from
the image network of its depth, which the command trains first, on `images.train`. `start.workdir` gives a finished
image network instead. `experiments.import_weights` makes one from a file of torchvision or timm.

With the flag `laptop` a row is a small network on the embedded task (configs/scenes.py). All depths use the same
small network there, because a deeper network would see the far cue without a block.
"""

from configs import common, scenes
from nl_jax.models.resnet_config import BLOCKS_PER_STAGE

R50 = {"model.depth": 50, "start.stage": "configs/kinetics.py:imagenet_r50"}
R101 = {"model.depth": 101, "start.stage": "configs/kinetics.py:imagenet_r101"}
# ResNeXt 32x8d on 8 devices with 1 image each. The image network has the same fields of the model.
X152 = {
    "model.depth": 152,
    "model.groups": 32,
    "model.width_per_group": 8,
    "start.stage": "configs/kinetics.py:imagenet_r101",
    "data.short_sides": tuple(range(640, 801, 32)),
    "batch_size": 8,
    "steps": 260_000,
    "optimizer.learning_rate": 0.01,
    "optimizer.decay_at": (200_000, 240_000),
}
FIGURE = "box AP"
OTHER_FIGURES = {"mask_ap": "mask AP", "box_ap_agnostic": "box AP whatever the class"}
FLAGS = {
    "1x": {"steps": 90_000, "optimizer.decay_at": (60_000, 80_000)},
    "2x": {"steps": 180_000, "optimizer.decay_at": (120_000, 160_000)},
}


def block_of(depth: int | None) -> dict:
    """Returns one non-local block before the last residual block of res4. None is for a res4 of two residual blocks."""
    return {"model.nonlocal_blocks.res4": (BLOCKS_PER_STAGE[depth][2] - 2 if depth else 0,)}


ROWS = {
    "r50": R50 | {"paper": (38.0, 59.6, 41.0, 34.6, 56.4, 36.5)},
    "r50_block": R50 | block_of(50) | {"paper": (39.0, 61.1, 41.9, 35.5, 58.0, 37.4)},
    "r101": R101 | {"paper": (39.5, 61.4, 42.9, 36.0, 58.1, 38.3)},
    "r101_block": R101 | block_of(101) | {"paper": (40.8, 63.1, 44.5, 37.1, 59.9, 39.2)},
    "x152": X152 | {"paper": (44.1, 66.4, 48.4, 39.7, 63.2, 42.2)},
    "x152_block": X152 | block_of(152) | {"paper": (45.0, 67.8, 48.9, 40.3, 64.4, 42.8)},
}


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    changes, flags = common.parse_row(argument, ROWS, (*FLAGS, "laptop"))
    if "laptop" in flags:
        config = scenes.get_config("block" if "model.nonlocal_blocks.res4" in changes else "baseline").unlock()
        config.paper = changes["paper"]
        return config.lock()
    if len(flags) > 1:
        raise ValueError(f"the flags {' and '.join(sorted(flags))} are both given; choose one")
    if flags and changes["model.depth"] == 152:
        raise ValueError(f"the flag {flags.pop()} is for R50 and R101; X152 has its own schedule; leave out the flag")
    config = common.detection()
    config.data = common.coco_data()
    config.num_classes = 80
    config.num_workers = 8
    config.eval_every = 0
    schedule = FLAGS[flags.pop()] if flags else {}
    return common.update(config, changes | schedule)
