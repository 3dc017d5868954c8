"""A detector for your own dataset in COCO's format: folders of images with an annotation file each.

    python -m experiments.train --config=configs/coco.py --workdir=runs/mine \\
        --config.data.train=IMAGES:train.json --config.data.validation=IMAGES:val.json \\
        --config.start.workdir=runs/detector

Without `data.validation` and `data.test` the run measures its figures on the training images, and the output says so.
`start.workdir` is the network to fine-tune: a finished run, or a workdir that `experiments.import_weights` made from a
file of torchvision, detectron2 or mmdetection (docs/detection.md). The rows:

| row | network |
|---|---|
| `block`, `baseline` | Mask R-CNN R50-FPN, with and without a non-local block |
| `small` | a network that a laptop can train from scratch, on images of 256 pixels |
"""

from configs import common
from configs.table5 import R50, block_of

ROWS = {
    "block": R50 | block_of(50),
    "baseline": R50,
    "small": block_of(None)
    | {
        "model.blocks_per_stage": (1, 1, 2, 1),
        "model.width": 16,
        "model.norm": "batch",
        "model.freeze_at": 0,
        "data.short_sides": (224, 256),
        "data.long_side": 352,
        "data.test_short_side": 256,
        "detector.fpn_channels": 64,
        "detector.box_channels": 256,
        "detector.mask_channels": 64,
        "detector.anchor_sides": (16, 32, 64, 128, 256),
        "detector.train_pre_nms": 500,
        "detector.pre_nms": 500,
        "detector.train_proposals": 300,
        "detector.proposals": 300,
        "detector.rpn_samples": 128,
        "detector.roi_samples": 64,
        "batch_size": 8,
        "optimizer.name": "adamw",
        "optimizer.learning_rate": 1e-3,
        "optimizer.bias_rate": 1.0,
        "optimizer.weight_decay": 1e-2,
        "optimizer.clip_norm": 1.0,
        "optimizer.schedule": "cosine",
        "optimizer.warmup_start": 0.0,
    },
}
# For fine-tuning: a tenth of the usual learning rate for this batch size, and steps for a few hundred images.
SHORT = {
    "steps": 2000,
    "batch_size": 4,
    "eval_batch_size": 4,
    "eval_every": 500,
    "log_every": 20,
    "checkpoint_every": 500,
    "precise_bn_batches": 20,
    "start.stage": "",
    "optimizer.learning_rate": 0.0025,
    "optimizer.decay_at": (1400, 1800),
    "optimizer.warmup_steps": 100,
}


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    changes, _ = common.parse_row(argument, ROWS)
    config = common.detection()
    config.data = common.coco_data()
    return common.update(config, SHORT | {name: value for name, value in changes.items() if name != "start.stage"})
