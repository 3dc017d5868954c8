"""The embedded task of detection, minutes on two cores: a cue far from all objects tells their class.

    python -m experiments.train --config=configs/scenes.py --workdir=runs/scenes

A network detects and segments digits. The tint of a disc at the other end of the picture is their class (see
`nl_jax.data.embedded.scenes`). The row `baseline` has no non-local block. Its field of view ends before the disc, so
its classes are right only by chance. The other rows are controls, and blocks in other stages or with other pairwise
functions. `python -m experiments.reproduce scenes --laptop` trains all rows. docs/detection.md has the results.
"""

from configs import common


def after(stage: str, **options: str) -> dict:
    """Returns the changes that put one non-local block after the residual block of a stage."""
    # The network is trained from scratch, so the block need not start as the identity. With an earlier recipe, a block
    # that started as the identity did not learn the classes in 2000 steps. The weights of "he" are much larger than the
    # initial weights in the released code.
    options = {"pairwise": "dot_product", "subsample": "none", "init": "he", "norm_scale": "1.0"} | options
    return {f"model.nonlocal_blocks.{stage}": (0,)} | {f"model.nonlocal_options.{k}": v for k, v in options.items()}


ROWS = {
    "block": after("res4"),
    "baseline": {},
    # More channels: as many parameters and multiply-adds as with the block, and the same field of view as the baseline.
    "wider": {"model.width": 18},
    # The baseline, but the cue is beside the digits, inside the field of view.
    "near": {"data.gap": 0},
    "identity": after("res4", norm_scale="0"),
    "res2": after("res2"),
    "res3": after("res3"),
    "res5": after("res5"),
    "gaussian": after("res4", pairwise="gaussian", scale="rsqrt_d"),
    "embedded_gaussian": after("res4", pairwise="embedded_gaussian", scale="rsqrt_d"),
    "concatenation": after("res4", pairwise="concatenation"),
}
BASELINE = "baseline"
FIGURE = "box AP"
OTHER_FIGURES = {"mask_ap": "mask AP", "box_ap_agnostic": "box AP whatever the class"}


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    changes, _ = common.parse_row(argument, ROWS, ("laptop",))  # the flag changes nothing: the row is small already
    config = common.detection()
    config.data = common.scenes_data()
    config.data.validation_size = 100
    config.data.test_size = 200
    config.steps = 600
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

    config.detector.fpn_channels = 32
    config.detector.box_channels = 128
    config.detector.mask_channels = 16
    config.detector.anchor_sides = (24, 48, 96, 192, 384)
    config.detector.pre_nms = 200
    config.detector.train_pre_nms = 100
    config.detector.proposals = 64
    config.detector.train_proposals = 32
    config.detector.rpn_samples = 64
    config.detector.roi_samples = 16
    config.detector.roi_positive_fraction = 0.5
    config.detector.detections = 20

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.bias_rate = 1.0
    config.optimizer.weight_decay = 1e-2
    config.optimizer.clip_norm = 1.0
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.optimizer.warmup_start = 0.0
    return common.update(config, changes)
