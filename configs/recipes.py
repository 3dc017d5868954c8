"""Recipes of other programs on Kinetics: of the paper's release, with 8 frames a clip, and of PySlowFast.

    python -m experiments.train --config=configs/recipes.py:release_nl_i3d_r50_8x8 --workdir=runs/release_nl_i3d_8x8 \
        --config.data.train=TRAIN --config.data.validation=VAL --config.data.test=VAL \
        --config.images.train=IMAGES --config.images.validation=VAL_IMAGES

The name of a row is the name of the network in `nl_jax.zoo` that its owner trained with this recipe. `expect` is the
accuracy that the owner reports. The rows of the release start from images. Their clips have 8 frames, every eighth of
the video. Otherwise they are the paper's recipe with the release's geometry. Three rows have fewer steps, or half of
the batch for 4 devices. release_i3d_r50_300k_4gpu_8x8 is the release's sanity check, without dropout and with one size
of frames.

The rows of PySlowFast need no images: they train from scratch for 196 epochs, from PySlowFast's initial values, which
their geometry has. Their cosine begins at step 0, and a warm-up of 34 epochs ends on its curve. An epoch has 3750
steps, for 240,000 videos. If your dataset has fewer videos, change `--config.steps` and
`--config.optimizer.warmup_steps`.

Cost of a row: 5.7 to 19.6 device-hours for the release, after 10.0 for the images, and 28.3 to 36.4 for PySlowFast.
`python -m experiments.reproduce recipes --plan` computes it from the operations, for a TPU v5e at an assumed 40% of its
published peak.
"""

from configs import kinetics

SPARSE = {"data.frames": 8, "data.stride": 8, "model.head_window": 7}
RELEASE = SPARSE | {"model.geometry": "caffe2_8", "data.starts": "caffe2"}
SHORTER = {"steps": 300_000, "optimizer.schedule": "steps", "optimizer.decay_at": (150_000, 250_000)}
FOUR_DEVICES = {"batch_size": 32, "optimizer.learning_rate": 0.005}
SLOWFAST = SPARSE | {
    "model.geometry": "slowfast",
    "data.starts": "slowfast",
    "start.stage": "",
    "steps": 196 * 3750,
    "optimizer.learning_rate": 0.1,
    "optimizer.schedule": "cosine",
    "optimizer.cosine_from_start": True,
    "optimizer.warmup_steps": 34 * 3750,
    "eval_every": 10 * 3750,
}


def recipe(row: str, changes: dict, top1: float, top5: float) -> dict:
    """Returns a row of configs/kinetics.py with changes; `top1` and `top5` are the figures of the owner in %."""
    row = {name: value for name, value in kinetics.ROWS[row].items() if name != "paper"}
    return row | changes | {"expect": f"The owner of the recipe reports top-1 {top1}% and top-5 {top5}%."}


ROWS = {
    "release_nl_i3d_r50_8x8": recipe("nl5_i3d_r50", RELEASE, 74.7, 91.6),
    "release_i3d_r50_8x8": recipe("i3d_r50", RELEASE, 73.4, 90.9),
    "release_nl_c2d_r50_8x8": recipe("nl5_c2d_r50", RELEASE, 74.4, 91.4),
    "release_c2d_r50_8x8": recipe("c2d_r50", RELEASE, 71.9, 90.0),
    "release_i3d_r50_300k_8x8": recipe("i3d_r50", RELEASE | SHORTER, 73.2, 90.8),
    "release_i3d_r50_600k_4gpu_8x8": recipe(
        "i3d_r50",
        RELEASE
        | FOUR_DEVICES
        | {"steps": 600_000, "optimizer.schedule": "steps", "optimizer.decay_at": (300_000, 500_000)},
        73.0,
        90.4,
    ),
    "release_i3d_r50_300k_4gpu_8x8": recipe(
        "i3d_r50",
        RELEASE | FOUR_DEVICES | SHORTER | {"model.dropout": 0.0, "data.short_side": (256, 256)},
        72.0,
        90.1,
    ),
    "i3d_nln_r50_8x8": recipe("nl5_i3d_r50", SLOWFAST, 74.0, 91.1),
    "i3d_r50_8x8": recipe("i3d_r50", SLOWFAST, 73.5, 90.8),
    "c2d_nopool_r50_8x8": recipe("c2d_r50", SLOWFAST | {"model.geometry": "slowfast_nopool"}, 67.2, 87.8),
}


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    if "laptop" in argument.split(","):
        raise ValueError(
            "configs/recipes.py has no flag 'laptop', because its schedules are for Kinetics; leave it out"
        )
    return kinetics.row_of(ROWS, argument)
