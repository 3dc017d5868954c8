"""Table 2f: non-local blocks in I3D. Five embedded Gaussian blocks in I3D 3x1x1, ResNet-50 and -101, on Kinetics.

    python -m experiments.train --config=configs/table2f.py:nl5_i3d_r50 --workdir=runs/table2f_nl5_i3d_r50 \
        --config.data.train=TRAIN --config.data.validation=VAL --config.data.test=VAL \
        --config.images.train=IMAGES --config.images.validation=VAL_IMAGES

Result of the paper: non-local blocks also improve I3D, so they complement 3-D convolutions.

Cost of a row: 11.1 to 24.0 device-hours with ResNet-50 and 19.1 to 34.1 with ResNet-101, after 10.0 and 19.0 for the
images. `python -m experiments.reproduce 2f --plan` computes it from the operations, for a TPU v5e at an assumed 40%
of its published peak. With the flag `laptop` a row takes about a minute on one core (configs/laptop.py).
docs/reproduction.md has the results of these small runs.
"""

from configs import kinetics

ROWS = {
    name: kinetics.ROWS[name] for name in ("c2d_r50", "i3d_r50", "nl5_i3d_r50", "c2d_r101", "i3d_r101", "nl5_i3d_r101")
}


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    return kinetics.row_of(ROWS, argument)
