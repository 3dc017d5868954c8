"""Table 2d: space, time or spacetime. Five embedded Gaussian blocks in C2D ResNet-50 and -101 on Kinetics.

    python -m experiments.train --config=configs/table2d.py:spacetime_r50 --workdir=runs/table2d_spacetime_r50 \
        --config.data.train=TRAIN --config.data.validation=VAL --config.data.test=VAL \
        --config.images.train=IMAGES --config.images.validation=VAL_IMAGES

Result of the paper: sums over space or over time improve on the baseline. Sums over spacetime improve more.

Cost of a row: 11.1 to 17.1 device-hours with ResNet-50 and 19.1 to 25.2 with ResNet-101, after 10.0 and 19.0 for the
images. `python -m experiments.reproduce 2d --plan` computes it from the operations, for a TPU v5e at an assumed 40%
of its published peak. With the flag `laptop` a row takes about a minute on one core (configs/laptop.py).
docs/reproduction.md has the results of these small runs.
"""

from configs import kinetics
from configs.kinetics import NL5, R50, R101


def five_over(axes: str) -> dict:
    """Returns five non-local blocks that sum over these axes: space, time or spacetime."""
    return NL5 | {"model.nonlocal_options.axes": axes}


ROWS = {
    "baseline_r50": R50 | {"paper": (71.8, 89.7)},
    "space_r50": R50 | five_over("space") | {"paper": (72.9, 90.8)},
    "time_r50": R50 | five_over("time") | {"paper": (73.1, 90.5)},
    "spacetime_r50": R50 | five_over("spacetime") | {"paper": (73.8, 91.0)},
    "baseline_r101": R101 | {"paper": (73.1, 91.0)},
    "space_r101": R101 | five_over("space") | {"paper": (74.4, 91.3)},
    "time_r101": R101 | five_over("time") | {"paper": (74.4, 90.5)},
    "spacetime_r101": R101 | five_over("spacetime") | {"paper": (75.1, 91.7)},
}


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    return kinetics.row_of(ROWS, argument)
