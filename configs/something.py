"""Something-Something v2: 174 actions with objects, for which the order of the frames matters.

    python -m experiments.train --config=configs/something.py:nl5_i3d_r50 --workdir=runs/something \
        --config.data.train=SOMETHING:train --config.data.validation=SOMETHING:validation \
        --config.data.test=SOMETHING:validation --config.start.model=release_nl_i3d_r50_8x8

SOMETHING is the folder that `experiments.prepare_data --dataset=something_something_v2` wrote (docs/data.md). A row
starts from its network on Kinetics. By default a row of configs/recipes.py trains this network first. The flag
`start.model` takes the published network instead.

No clip is mirrored, because some classes name left and right: "Pushing something from left to right". Videos last 2 to
6 seconds at 12 frames a second, so a clip of 8 frames, every fourth, spans most of a video. PySlowFast
publishes this schedule and this learning rate for the dataset and a network without blocks (30 epochs of 2639 steps
each). In PySlowFast a clip spans the whole video. Here it spans 32 consecutive frames. So the results need not equal
the published figures.

Cost of a row: 2.1 to 3.9 device-hours, after the hours of its network on Kinetics. `python -m experiments.reproduce
something --plan` computes it from the operations, for a TPU v5e at an assumed 40% of its published peak.
"""

from configs import kinetics, recipes

SOMETHING = {
    "num_classes": 174,
    "data.stride": 4,
    "data.flip": False,
    "data.num_clips": 2,
    "steps": 30 * 2639,
    "optimizer.learning_rate": 0.1,
    "optimizer.schedule": "cosine",
    "optimizer.cosine_from_start": True,
    "optimizer.warmup_steps": 3 * 2639,
    "optimizer.warmup_start": 0.8,
    "eval_every": 2 * 2639,
    "expect": "",
}


def fine_tuned(row: str) -> dict:
    """Returns a row of configs/recipes.py that starts from its network on Kinetics."""
    return recipes.ROWS[row] | SOMETHING | {"start.stage": f"configs/recipes.py:{row}"}


ROWS = {
    "nl5_i3d_r50": fine_tuned("release_nl_i3d_r50_8x8"),
    "i3d_r50": fine_tuned("release_i3d_r50_8x8"),
    "nl5_c2d_r50": fine_tuned("release_nl_c2d_r50_8x8"),
    "c2d_r50": fine_tuned("release_c2d_r50_8x8"),
}


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    if "laptop" in argument.split(","):
        raise ValueError("configs/something.py has no flag 'laptop'; leave it out")
    return kinetics.row_of(ROWS, argument)
