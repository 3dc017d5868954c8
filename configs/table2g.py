"""Table 2g: longer clips. 128 consecutive frames, each network started from its own of 32 frames, on Kinetics.

    python -m experiments.train --config=configs/table2g.py:nl5_i3d_r50 --workdir=runs/table2g_nl5_i3d_r50 \
        --config.data.train=TRAIN --config.data.validation=VAL --config.data.test=VAL \
        --config.images.train=IMAGES --config.images.validation=VAL_IMAGES

The paper: all gain from longer clips, and the non-local networks keep their lead. Batch norm is frozen, the batch is 16
clips and the learning rate 0.0025 (section 4.1). The network of 32 frames is trained first unless
--config.start.workdir names it.

Cost, planned from its operations by `python -m experiments.reproduce 2g --plan` for a TPU v5e at an assumed 40% of
its published peak: 11.1 to 29.0 device-hours a row of R50 and 19.1 to 39.0 of R101, after those of table 2f. With the
flag `laptop` a row is about a minute on one core (configs/laptop.py); what came of that is in docs/reproduction.md.
"""

from configs import kinetics


def long(row: str, paper: tuple[float, float]) -> dict:
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
    return kinetics.row_of(ROWS, argument)
