"""Controls: residual blocks with the cost of five non-local blocks. C2D ResNet-50 on Kinetics.

    python -m experiments.train --config=configs/controls.py:same_parameters --workdir=runs/same_parameters \
        --config.data.train=TRAIN --config.data.validation=VAL --config.data.test=VAL \
        --config.images.train=IMAGES --config.images.validation=VAL_IMAGES

The rows same_parameters and same_flops have more residual blocks in res3 and res4 and no non-local block. The first has
as many parameters as a network with five non-local blocks, the second as many multiply-adds. The paper has neither row.
Its own control is depth (table 2c).

In training, batch norm gives each clip information about other clips, because its statistics come from a group of eight
clips. In the row global_norm the statistics come from the whole batch, so each clip learns less about the other clips.
In the row frozen_norm the statistics come from the image network, so a clip learns nothing about other clips. Otherwise
both rows are the baseline.

Cost of a row: 11.1 to 17.2 device-hours, after 10.0 for the images. `python -m experiments.reproduce controls --plan`
computes it from the operations, for a TPU v5e at an assumed 40% of its published peak. With the flag `laptop` a row
takes a minute on one core (configs/laptop.py). docs/reproduction.md has the results.
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
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    rows = ROWS
    if "laptop" in argument.split(","):
        rows = ROWS | {name: R50 | {"model.blocks_per_stage": blocks} for name, blocks in LAPTOP.items()}
    return kinetics.row_of(rows, argument)
