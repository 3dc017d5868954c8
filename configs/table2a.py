"""Table 2a: the pairwise function. C2D ResNet-50 on Kinetics, with one block before the last residual block of res4.

    python -m experiments.train --config=configs/table2a.py:embedded_gaussian --workdir=runs/table2a_embedded_gaussian \
        --config.data.train=TRAIN --config.data.validation=VAL --config.data.test=VAL \
        --config.images.train=IMAGES --config.images.validation=VAL_IMAGES

Result of the paper: all pairwise functions perform alike, and better than the baseline.

Cost of a row: 11.1 to 12.0 device-hours, after 10.0 for the images. `python -m experiments.reproduce 2a --plan`
computes it from the operations, for a TPU v5e at an assumed 40% of its published peak. With the flag `laptop` a row
takes about a minute on one core (configs/laptop.py). docs/reproduction.md has the results of these small runs.
"""

from configs import kinetics
from configs.kinetics import R50


def one_block(pairwise: str) -> dict:
    """Returns one non-local block with this pairwise function."""
    return {"model.nonlocal_preset": 1, "model.nonlocal_options.pairwise": pairwise}


ROWS = {
    "baseline": R50 | {"paper": (71.8, 89.7)},
    "gaussian": R50 | one_block("gaussian") | {"paper": (72.5, 90.2)},
    "embedded_gaussian": R50 | one_block("embedded_gaussian") | {"paper": (72.7, 90.5)},
    "dot_product": R50 | one_block("dot_product") | {"paper": (72.9, 90.3)},
    "concatenation": R50 | one_block("concatenation") | {"paper": (72.8, 90.5)},
}


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    return kinetics.row_of(ROWS, argument)
