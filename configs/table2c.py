"""Table 2c: the number of blocks. 1, 5 or 10 embedded Gaussian blocks in C2D ResNet-50 and -101 on Kinetics.

    python -m experiments.train --config=configs/table2c.py:r50_5 --workdir=runs/table2c_r50_5 \
        --config.data.train=TRAIN --config.data.validation=VAL --config.data.test=VAL \
        --config.images.train=IMAGES --config.images.validation=VAL_IMAGES

Result of the paper: more blocks give a larger gain. ResNet-50 with five blocks is better than ResNet-101, so the gain
does not come from depth alone.

Cost of a row: 11.1 to 23.2 device-hours with ResNet-50 and 19.1 to 31.3 with ResNet-101, after 10.0 and 19.0 for the
images. `python -m experiments.reproduce 2c --plan` computes it from the operations, for a TPU v5e at an assumed 40%
of its published peak. With the flag `laptop` a row takes about a minute on one core (configs/laptop.py).
docs/reproduction.md has the results of these small runs.
"""

from configs import kinetics
from configs.kinetics import R50, R101


def blocks(count: int) -> dict:
    """Returns `count` non-local blocks: 1, 5 or 10."""
    return {"model.nonlocal_preset": count}


ROWS = {
    "baseline_r50": R50 | {"paper": (71.8, 89.7)},
    "r50_1": R50 | blocks(1) | {"paper": (72.7, 90.5)},
    "r50_5": R50 | blocks(5) | {"paper": (73.8, 91.0)},
    "r50_10": R50 | blocks(10) | {"paper": (74.3, 91.2)},
    "baseline_r101": R101 | {"paper": (73.1, 91.0)},
    "r101_1": R101 | blocks(1) | {"paper": (74.3, 91.3)},
    "r101_5": R101 | blocks(5) | {"paper": (75.1, 91.7)},
    "r101_10": R101 | blocks(10) | {"paper": (75.1, 91.6)},
}


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    return kinetics.row_of(ROWS, argument)
