"""Table 2e: comparison of non-local blocks with 3-D convolutions, ResNet-101 on Kinetics.

    python -m experiments.train --config=configs/table2e.py:nl_c2d --workdir=runs/table2e_nl_c2d \
        --config.data.train=TRAIN --config.data.validation=VAL --config.data.test=VAL \
        --config.images.train=IMAGES --config.images.validation=VAL_IMAGES

Result of the paper: non-local C2D with five blocks is the most accurate. It has 1.2x the parameters and 1.2x the FLOPs
of C2D (43.2M, 34.2G). I3D 3x3x3 has 1.5x and 1.8x, and I3D 3x1x1 has 1.2x and 1.5x. `tests/models/test_summary.py`
tests that the networks here have the same ratios.

Cost of a row: 19.1 to 33.7 device-hours, after 19.0 for the images. `python -m experiments.reproduce 2e --plan`
computes it from the operations, for a TPU v5e at an assumed 40% of its published peak. With the flag `laptop` a row
takes about a minute on one core (configs/laptop.py). docs/reproduction.md has the results of these small runs.
"""

from configs import kinetics
from configs.kinetics import NL5, R50, R101

ROWS = {
    "c2d": R101 | {"paper": (73.1, 91.0)},
    "i3d_3x3x3": R101 | {"model.inflate": "3x3x3", "paper": (74.1, 91.2)},
    "i3d_3x1x1": R101 | {"model.inflate": "3x1x1", "paper": (74.4, 91.1)},
    "nl_c2d": R101 | NL5 | {"paper": (75.1, 91.7)},
}
PAPER_RATIOS = {"c2d": (1.0, 1.0), "i3d_3x3x3": (1.5, 1.8), "i3d_3x1x1": (1.2, 1.5), "nl_c2d": (1.2, 1.2)}


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    rows = ROWS
    if "laptop" in argument.split(","):  # the flag replaces ResNet-101 by the smaller network
        rows = {name: row | R50 | {"model.depth": 50} for name, row in ROWS.items()}
    return kinetics.row_of(rows, argument)
