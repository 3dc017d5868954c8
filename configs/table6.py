"""Table 6: Keypoint R-CNN on COCO, with blocks in the keypoint head and one in the backbone.

    python -m experiments.train --config=configs/table6.py:r101_head,s1x --workdir=runs/table6_r101_head \\
        --config.data.train=COCO:train2017 --config.data.validation=COCO:val2017 --config.data.test=COCO:val2017 \\
        --config.images.train=IMAGES --config.images.validation=VAL_IMAGES

Result of the paper: four blocks in the head, one after every second of its eight convolutions, raise keypoint AP by
about 1 point. One more block in the backbone raises AP75 by about another point. `paper` holds keypoint AP, AP50, AP75.
COCO is the folder with `annotations` (and person_keypoints_train2017.json in it), `train2017` and `val2017`.

The flag `s1x` trains for 130,000 steps, as in the paper's code for keypoints; `1x` for 90,000. The default is `s1x`.

With the flag `laptop` a row is a small network on the embedded task (configs/poses.py), whose head has two
convolutions. There, the row `r101_convolutions` is the control: eight convolutions and no block. At full size this row
is the same as `r101`.
"""

from configs import common, poses
from configs.table5 import FLAGS as SCHEDULES
from configs.table5 import R101, block_of

HEAD = {"detector.keypoint_blocks": (2, 4, 6, 8)}
FIGURE = "keypoint AP"
FLAGS = {
    "s1x": {"steps": 130_000, "optimizer.decay_at": (100_000, 120_000)},
    "1x": SCHEDULES["1x"],
}
ROWS = {
    "r101": R101 | {"paper": (65.1, 86.8, 70.4)},
    "r101_head": R101 | HEAD | {"paper": (66.0, 87.1, 71.7)},
    "r101_head_backbone": R101 | HEAD | block_of(101) | {"paper": (66.5, 87.3, 72.8)},
    "r101_convolutions": R101 | {"paper": (65.1, 86.8, 70.4)},
}
OTHER_FIGURES = {"keypoint_exchanged": "left for right"}
LAPTOP = {
    "r101": "baseline",
    "r101_head": "blocks",
    "r101_head_backbone": "blocks_backbone",
    "r101_convolutions": "convolutions",
}


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    changes, flags = common.parse_row(argument, ROWS, (*FLAGS, "laptop"))
    if "laptop" in flags:
        row = next(name for name, of_row in ROWS.items() if of_row is changes)
        config = poses.get_config(LAPTOP[row]).unlock()
        config.paper = changes["paper"]
        return config.lock()
    if len(flags) > 1:
        raise ValueError(f"the flags {' and '.join(sorted(flags))} are both given; choose one")
    config = common.detection()
    config.data = common.coco_data()
    config.data.short_sides = tuple(range(640, 801, 32))
    config.num_classes = 1
    config.num_workers = 8
    config.eval_every = 0
    config.detector.masks = False
    config.detector.keypoints = 17
    return common.update(config, FLAGS[flags.pop() if flags else "s1x"] | changes)
