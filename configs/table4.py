"""Table 4: ResNet-101 on Charades, from Kinetics networks of 128 frames. Mean average precision over 157 actions.

    python -m experiments.train --config=configs/table4.py:nl_i3d_r101 --workdir=runs/table4_nl_i3d_r101 \
        --config.data.train=CHARADES:train --config.data.validation=CHARADES:test --config.data.test=CHARADES:test \
        --config.start.workdir=runs/table2g_nl5_i3d_r101

CHARADES is the directory that `experiments.prepare_data --dataset=charades` wrote (docs/data.md). The start is a
finished run of configs/table2g.py. Result of the paper: 35.5 without and 37.5 with non-local blocks on its validation
set, which the dataset calls test. On the test server, after training on both splits, it is 37.2 and 39.5.

Cost of a row: 11.6 and 18.0 device-hours, after the hours of table 2g. `python -m experiments.reproduce 4 --plan`
computes it from the operations, for a TPU v5e at an assumed 40% of its published peak. There is no flag `laptop`,
because the embedded task has one label a clip.
"""

from configs import kinetics

# One clip on each of 8 devices. Section 5.2 resizes crops of 224 to 288, so short sides are U[256, 320] x 288 / 224.
CHARADES = {
    "start.stage": "",
    "num_classes": 157,
    "batch_size": 8,
    "steps": 200_000,
    "optimizer.learning_rate": 0.00125,
    "optimizer.decay_every": 75_000,
    "data.short_side": (329, 411),
    "data.crop": 288,
    "data.test_short_side": 320,
    "data.test_crop": 320,
}

ROWS = {
    "i3d_r101": kinetics.R101 | kinetics.I3D | kinetics.LONG | CHARADES | {"expect": "The paper reports 35.5 mAP."},
    "nl_i3d_r101": kinetics.ROWS["nl5_i3d_r101"] | kinetics.LONG | CHARADES | {"expect": "The paper reports 37.5 mAP."},
}
ROWS["nl_i3d_r101"].pop("paper")  # the figures for Kinetics


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    if "laptop" in argument.split(","):
        raise ValueError("table 4 has no flag 'laptop', because the embedded task has one label a clip; leave it out")
    return kinetics.row_of(ROWS, argument)
