"""The embedded task of keypoints, minutes on two cores: shoes far from the arms tell left from right.

    python -m experiments.train --config=configs/poses.py --workdir=runs/poses

A network finds the keypoints of a figure. Only the shoes show whether the figure is seen from the front or from behind,
and so which of its wrists is the left one (see `nl_jax.data.embedded.poses`). The rows:

| row | network |
|---|---|
| `baseline` | two convolutions in the keypoint head: they do not reach from a shoulder to the shoes |
| `blocks` | the baseline with a non-local block after each convolution |
| `blocks_backbone` | the two blocks of `blocks`, and one in res4 |
| `convolutions` | the control, eight convolutions and no block: they reach the shoes |
"""

from configs import common, scenes

# The maps of the head have no norm, so the dot product, a product of three features, could grow without a bound. With
# the embedded Gaussian, the default, y is a mean of values, which cannot. The shoes fill a twentieth of the box, so y
# differs little between figures. A batch norm makes this difference large. With norm="affine" a run of 300 steps did
# not learn to see the shoes.
OPTIONS = {"subsample": "none", "init": "he", "norm": "batch", "norm_scale": "1.0"}
HEAD = {"detector.keypoint_blocks": (1, 2)} | {f"detector.keypoint_options.{k}": v for k, v in OPTIONS.items()}
ROWS = {
    "blocks": HEAD,
    "baseline": {},
    "blocks_backbone": HEAD | scenes.after("res4"),
    "convolutions": {"detector.keypoint_convolutions": 8},
}


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
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
