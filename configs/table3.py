"""Table 3: the final networks on Kinetics. They are non-local I3D of 128 frames with five blocks, as in table 2g.

    python -m experiments.train --config=configs/table3.py:nl_i3d_r101 --workdir=runs/table3_nl_i3d_r101 \
        --config.data.train=TRAIN --config.data.validation=VAL --config.data.test=VAL \
        --config.images.train=IMAGES --config.images.validation=VAL_IMAGES

The paper compares these networks with other methods. The figures are measured on the validation set.

Cost of a row: 29.0 and 39.0 device-hours, after 34.0 and 53.1 for the stages before. `python -m experiments.reproduce 3
--plan` computes it from the operations, for a TPU v5e at an assumed 40% of its published peak.
"""

from configs import kinetics, table2g

ROWS = {"nl_i3d_r50": table2g.ROWS["nl5_i3d_r50"], "nl_i3d_r101": table2g.ROWS["nl5_i3d_r101"]}


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    return kinetics.row_of(ROWS, argument)
