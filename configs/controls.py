"""Controls: what five blocks add, spent on residual blocks instead. C2D ResNet-50 on Kinetics.

    python -m experiments.train --config=configs/controls.py:same_parameters --workdir=runs/same_parameters \
        --config.data.train=TRAIN --config.data.validation=VAL --config.data.test=VAL \
        --config.images.train=IMAGES --config.images.validation=VAL_IMAGES

The rows same_parameters and same_flops have as many parameters, and as many multiply-adds, as five non-local blocks
give, by more residual blocks in res3 and res4. The paper has no such rows; its own control is depth, table 2c.

Batch norm in training tells each clip of the frames of others: its statistics are of a group of eight clips. The rows
global_norm (statistics of the whole batch) and frozen_norm (those of the image network) are the baseline with less of
that, and with none.

Cost, planned from its operations by `python -m experiments.reproduce controls --plan` for a TPU v5e at an assumed 40%
of its published peak: 11.1 to 17.2 device-hours a row, after 10.0 for the images. With the flag `laptop` a row is a
minute on one core (configs/laptop.py); what came of that is in docs/reproduction.md.
"""

from configs import kinetics, table2c
from configs.kinetics import R50

ROWS = {
    "baseline": table2c.ROWS["baseline_r50"],
    "five_blocks": table2c.ROWS["r50_5"],
    "same_parameters": R50 | {"model.blocks_per_stage": (3, 6, 12, 3)},
    "same_flops": R50 | {"model.blocks_per_stage": (3, 8, 15, 3)},
    "global_norm": R50 | {"model.norm": "global"},
    "frozen_norm": R50 | {"model.norm": "frozen"},
}
LAPTOP = {"same_parameters": (1, 4, 9, 1), "same_flops": (1, 5, 10, 1)}


def get_config(argument: str = ""):
    rows = ROWS
    if "laptop" in argument.split(","):
        rows = ROWS | {name: R50 | {"model.blocks_per_stage": blocks} for name, blocks in LAPTOP.items()}
    return kinetics.row_of(rows, argument)
