"""Table 2g: longer clips of 128 consecutive frames on Kinetics. Each network starts from its network of 32 frames.

    python -m experiments.train --config=configs/table2g.py:nl5_i3d_r50 --workdir=runs/table2g_nl5_i3d_r50 \
        --config.data.train=TRAIN --config.data.validation=VAL --config.data.test=VAL \
        --config.images.train=IMAGES --config.images.validation=VAL_IMAGES

Result of the paper: longer clips improve all networks, and the non-local networks remain better. Batch norm is frozen,
the batch has 16 clips and the learning rate is 0.0025 (section 5.1). The command trains the network of 32 frames first.
`--config.start.workdir=DIR` takes a trained network of 32 frames instead.

Cost of a row: 11.1 to 29.0 device-hours with ResNet-50 and 19.1 to 39.0 with ResNet-101, after the hours of table 2f.
`python -m experiments.reproduce 2g --plan` computes it from the operations, for a TPU v5e at an assumed 40% of its
published peak. With the flag `laptop` a row takes about a minute on one core (configs/laptop.py).
docs/reproduction.md has the results of these small runs.
"""

from configs import kinetics


def long(row: str, paper: tuple[float, float]) -> dict:
    """Returns a row of 128 frames that starts from the row of 32 frames; `paper` is (top-1, top-5) in %."""
    return kinetics.ROWS[row] | kinetics.LONG | {"start.stage": f"configs/kinetics.py:{row}", "paper": paper}


ROWS = {
    "c2d_r50": long("c2d_r50", (73.8, 91.2)),
    "i3d_r50": long("i3d_r50", (74.9, 91.7)),
    "nl5_i3d_r50": long("nl5_i3d_r50", (76.5, 92.6)),
    "c2d_r101": long("c2d_r101", (75.3, 91.8)),
    "i3d_r101": long("i3d_r101", (76.4, 92.7)),
    "nl5_i3d_r101": long("nl5_i3d_r101", (77.7, 93.3)),
}


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    return kinetics.row_of(ROWS, argument)
