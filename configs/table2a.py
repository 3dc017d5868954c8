"""Table 2a: the pairwise function. One block before the last residual block of res4, C2D ResNet-50 on Kinetics.

    python -m experiments.train --config=configs/table2a.py:embedded_gaussian --workdir=runs/table2a_embedded_gaussian \
        --config.data.train=TRAIN --config.data.validation=VAL --config.data.test=VAL \
        --config.images.train=IMAGES --config.images.validation=VAL_IMAGES

The paper: the kinds of non-local operation perform alike, all better than the baseline.

Cost, planned from its operations by `python -m experiments.reproduce 2a --plan` for a TPU v5e at an assumed 40% of
its published peak: 11.1 to 12.0 device-hours a row, after 10.0 for the images. With the flag `laptop` a row is a
minute on one core (configs/laptop.py); what came of that is in docs/reproduction.md.
"""

from configs import kinetics
from configs.kinetics import R50


def one_block(pairwise: str) -> dict:
    return {"model.nonlocal_preset": 1, "model.nonlocal_options.pairwise": pairwise}


ROWS = {
    "baseline": R50 | {"paper": (71.8, 89.7)},
    "gaussian": R50 | one_block("gaussian") | {"paper": (72.5, 90.2)},
    "embedded_gaussian": R50 | one_block("embedded_gaussian") | {"paper": (72.7, 90.5)},
    "dot_product": R50 | one_block("dot_product") | {"paper": (72.9, 90.3)},
    "concatenation": R50 | one_block("concatenation") | {"paper": (72.8, 90.5)},
}


def get_config(argument: str = ""):
    return kinetics.row_of(ROWS, argument)
