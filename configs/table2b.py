"""Table 2b: the stage. One embedded Gaussian block before the last residual block of one, C2D ResNet-50 on Kinetics.

    python -m experiments.train --config=configs/table2b.py:res3 --workdir=runs/table2b_res3 \
        --config.data.train=TRAIN --config.data.validation=VAL --config.data.test=VAL \
        --config.images.train=IMAGES --config.images.validation=VAL_IMAGES

The paper: res2, res3 and res4 gain alike, res5 (7 x 7 positions a frame) a little less.

Cost, planned from its operations by `python -m experiments.reproduce 2b --plan` for a TPU v5e at an assumed 40% of
its published peak: 11.1 to 12.6, res2 36.0 device-hours a row, after 10.0 for the images. With the flag `laptop` a
row is a minute on one core (configs/laptop.py); what came of that is in docs/reproduction.md.
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
    return kinetics.row_of(ROWS, argument)
