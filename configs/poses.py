"""The embedded task of keypoints, small enough for two cores: left is told from right by shoes far from the arms.

    python -m experiments.train --config=configs/poses.py --workdir=runs/poses

A network finds the keypoints of a figure. The shoes alone say whether the figure is seen from the front or from behind,
and so which wrist is the left one (see `nl_jax.data.poses`). The rows:

| row | network |
|---|---|
| `baseline` | two convolutions in the keypoint head: from a shoulder they do not reach the shoes |
| `blocks` | the same with a non-local block after each of them |
| `blocks_backbone` | these two, and one in res4 |
| `convolutions` | eight convolutions and no block, the control: they reach the shoes |
"""

from configs import common, scenes

# In the head, whose maps have no norm, products of three features grow without a bound: the embedded Gaussian, which is
# the default, keeps y a mean of its values. The shoes are a twentieth of the box, so y differs little from one figure
# to another: a batch norm makes that difference large. With norm="affine" one run of 300 steps learnt nothing of them.
OPTIONS = {"subsample": "none", "init": "he", "norm": "batch", "norm_scale": "1.0"}
HEAD = {"detector.keypoint_blocks": (1, 2)} | {f"detector.keypoint_options.{k}": v for k, v in OPTIONS.items()}
ROWS = {
    "blocks": HEAD,
    "baseline": {},
    "blocks_backbone": HEAD | scenes.after("res4"),
    "convolutions": {"detector.keypoint_convolutions": 8},
}


def get_config(argument: str = ""):
    changes, _ = common.parse_row(argument, ROWS)
    config = scenes.get_config("baseline").unlock()
    config.data = common.poses_data()
    config.data.validation_size = 100
    config.data.test_size = 200
    config.steps = 600

    config.detector.masks = False
    config.detector.keypoints = 17
    config.detector.keypoint_channels = 32
    config.detector.keypoint_convolutions = 2
    config.detector.fpn_channels = 16
    config.detector.box_channels = 64
    config.detector.anchor_ratios = (1.0, 2.0, 4.0)
    config.detector.pre_nms = 50
    config.detector.train_pre_nms = 50
    config.detector.proposals = 16
    config.detector.train_proposals = 16
    config.detector.rpn_samples = 32
    config.detector.roi_samples = 4  # of one figure an image
    config.detector.detections = 4
    return common.update(config, changes)
