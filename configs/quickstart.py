"""The embedded task, a few minutes on two cores: it shows the purpose of non-local blocks.

    python -m experiments.train --config=configs/quickstart.py --workdir=runs/quickstart

The command first trains a network on single images. Then it adds two non-local blocks to res3, and trains the network
on clips whose label depends on two places far apart (see `nl_jax.data.embedded.long_range`). The row c2d is the same
network without blocks.
"""

from configs import common

ROWS = {
    "nl_c2d": {
        "start.stage": "configs/quickstart.py:images",
        "model.nonlocal_blocks.res3": (0, 1),
        "model.nonlocal_options.pairwise": "dot_product",
        "expect": "99.8%, 99.7% and 99.8% (seeds 0 to 2); the network without non-local blocks "
        "(--config=configs/quickstart.py:c2d) 26.2%, 24.0% and 25.1%, where chance is 20%.",
    },
    "c2d": {
        "start.stage": "configs/quickstart.py:images",
        "expect": "26.2%, 24.0% and 25.1% (seeds 0 to 2); with two non-local blocks 99.8%, 99.7% and 99.8%.",
    },
    "images": {
        "data.images": True,
        "steps": 600,
        "batch_size": 128,
        "eval_batch_size": 512,
        "eval_every": 0,
        "optimizer.learning_rate": 3e-3,
        "optimizer.classifier_rate": 1.0,
        "optimizer.warmup_steps": 30,
    },
}


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    changes, _ = common.parse_row(argument, ROWS)
    config = common.base()
    config.data = common.long_range_data()
    config.steps = 2400
    config.batch_size = 32
    config.eval_batch_size = 64
    config.eval_every = 600
    config.log_every = 50
    config.checkpoint_every = 100
    config.precise_bn_batches = 20

    config.model.blocks_per_stage = (1, 2)
    config.model.width = 16
    config.model.geometry = "small"
    config.model.dropout = 0.0

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1.5e-3
    config.optimizer.classifier_rate = 10.0
    config.optimizer.clip_norm = 1.0
    config.optimizer.weight_decay = 1e-2
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 120
    config.optimizer.warmup_start = 0.0
    return common.update(config, changes)
