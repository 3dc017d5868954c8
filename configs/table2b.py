"""Table 2b: the stage of the block. C2D ResNet-50 on Kinetics, with one embedded Gaussian block in one stage.

The non-local block is before the last residual block of the stage.

    python -m experiments.train --config=configs/table2b.py:res3 --workdir=runs/table2b_res3 \
        --config.data.train=TRAIN --config.data.validation=VAL --config.data.test=VAL \
        --config.images.train=IMAGES --config.images.validation=VAL_IMAGES

Result of the paper: a block in res2, res3 or res4 gives a similar gain. A block in res5 (7 x 7 positions a frame) gives
a little less.

Cost of a row: 11.1 to 12.6 device-hours (36.0 for res2), after 10.0 for the images. `python -m experiments.reproduce
2b --plan` computes it from the operations, for a TPU v5e at an assumed 40% of its published peak. With the flag
`laptop` a row takes about a minute on one core (configs/laptop.py). docs/reproduction.md has the results of these
small runs.
"""

from configs import kinetics
from configs.kinetics import R50

ROWS = {
    "baseline": R50 | {"paper": (71.8, 89.7)},
    "res2": R50 | {"model.nonlocal_blocks.res2": (1,), "paper": (72.7, 90.3)},
    "res3": R50 | {"model.nonlocal_blocks.res3": (2,), "paper": (72.9, 90.4)},
    "res4": R50 | {"model.nonlocal_blocks.res4": (4,), "paper": (72.7, 90.5)},
    "res5": R50 | {"model.nonlocal_blocks.res5": (1,), "paper": (72.3, 90.1)},
}


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    return kinetics.row_of(ROWS, argument)
