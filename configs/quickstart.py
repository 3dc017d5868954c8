"""draft"""

from configs import common

NL = {"model.nonlocal_blocks.res3": (0,), "model.nonlocal_blocks.res4": (0,)}
STAGE = {"start.stage": "configs/quickstart.py:images"}
IMAGES = {"data.images": True, "steps": 300}
ROWS = {"nl_c2d": STAGE | NL, "c2d": STAGE, "images": IMAGES}


def get_config(argument: str = ""):
    changes, _ = common.choose(argument, ROWS)
    config = common.base()
    config.data = common.long_range()
    config.steps = 600
    config.batch_size = 32
    config.eval_batch_size = 64
    config.eval_every = 200
    config.log_every = 50
    config.checkpoint_every = 100
    config.precise_bn_batches = 20

    config.model.blocks_per_stage = (1, 1, 1)
    config.model.width = 16
    config.model.geometry = "small"
    config.model.dropout = 0.0

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 1e-2
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 20
    return common.update(config, changes)
