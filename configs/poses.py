"""The embedded task of keypoints, small enough for two cores: left is told from right by a head far from the limbs.

    python -m experiments.train --config=configs/poses.py --workdir=runs/poses

A network finds the keypoints of a figure. The head alone says whether the figure is seen from the front or from behind,
and so which wrist is the left one (see `nl_jax.data.poses`). The rows:

| row | network |
|---|---|
| `baseline` | two convolutions in the keypoint head: from an ankle they do not reach the head |
| `blocks` | the same with a non-local block after each of them |
| `blocks_backbone` | these two, and one in res4 |
| `convolutions` | eight convolutions and no block, the control: they reach the head |
"""

from configs import common

# In the head, whose maps have no norm, products of three features grow without a bound: the embedded Gaussian, which is
# the default, keeps y a mean of its values. In the backbone as configs/scenes.py has it.
HEAD = {"detector.keypoint_blocks": (1, 2), "detector.keypoint_options.subsample": "none"}
OPTIONS = {"pairwise": "dot_product", "subsample": "none", "init": "he", "norm_scale": "1.0"}
BACKBONE = {"model.nonlocal_blocks.res4": (0,)} | {f"model.nonlocal_options.{name}": OPTIONS[name] for name in OPTIONS}
ROWS = {
    "blocks": HEAD,
    "baseline": {},
    "blocks_backbone": HEAD | BACKBONE,
    "convolutions": {"detector.keypoint_convolutions": 8},
}


def get_config(argument: str = ""):
    changes, _ = common.parse_row(argument, ROWS)
    config = common.detection()
    config.data = common.poses_data()
    config.steps = 1200
    config.batch_size = 8
    config.eval_batch_size = 20
    config.eval_every = 0
    config.log_every = 50
    config.checkpoint_every = 200
    config.precise_bn_batches = 20

    config.model.blocks_per_stage = (1, 1, 1, 1)
    config.model.width = 16
    config.model.geometry = "small"
    config.model.norm = "batch"
    config.model.freeze_at = 0

    config.detector.masks = False
    config.detector.keypoints = 17
    config.detector.keypoint_channels = 32
    config.detector.keypoint_convolutions = 2
    config.detector.fpn_channels = 32
    config.detector.box_channels = 64
    config.detector.anchor_sides = (24, 48, 96, 192, 384)
    config.detector.anchor_ratios = (1.0, 2.0, 4.0)
    config.detector.pre_nms = 50
    config.detector.train_pre_nms = 50
    config.detector.proposals = 16
    config.detector.train_proposals = 16
    config.detector.rpn_samples = 32
    config.detector.roi_samples = 16
    config.detector.roi_positive_fraction = 0.5
    config.detector.detections = 4

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.bias_rate = 1.0
    config.optimizer.weight_decay = 1e-2
    config.optimizer.clip_norm = 1.0
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.optimizer.warmup_start = 0.0
    return common.update(config, changes)
