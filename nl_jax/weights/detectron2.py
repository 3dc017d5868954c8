"""Mask R-CNN and Keypoint R-CNN with a feature pyramid from detectron2's model zoo, `.pkl`.

A file does not contain the following settings. The R50 and R101 have their stride on the 1x1 convolution
(ResNetConfig.stride_on_1x1=True). The corners of anchors are not whole pixels (round_anchors=False), and RoIAlign has
aligned=True. In detectron2 the number of samples of a bin depends on the box. Here it is `samples` for every box.
"""

from nl_jax.weights import read
from nl_jax.weights.table import TORCH_LINEAR, TORCH_NORM, Source

SOURCE = Source(
    rows=(
        ("backbone.bottom_up.stem.conv1.weight", "backbone/conv1/kernel"),
        ("backbone.bottom_up.stem.conv1.norm.{stat}", "backbone/norm1/{stat}"),
        ("backbone.bottom_up.{stage}.{block}.conv{conv}.weight", "backbone/{stage}/{block}/conv{conv}/kernel"),
        ("backbone.bottom_up.{stage}.{block}.conv{conv}.norm.{stat}", "backbone/{stage}/{block}/norm{conv}/{stat}"),
        ("backbone.bottom_up.{stage}.{block}.shortcut.weight", "backbone/{stage}/{block}/shortcut/kernel"),
        ("backbone.bottom_up.{stage}.{block}.shortcut.norm.{stat}", "backbone/{stage}/{block}/shortcut_norm/{stat}"),
        ("backbone.fpn_lateral{level}.{linear}", "fpn/lateral/{level}/{linear}"),
        ("backbone.fpn_output{level}.{linear}", "fpn/output/{level}/{linear}"),
        ("proposal_generator.rpn_head.conv.{linear}", "rpn/conv/{linear}"),
        ("proposal_generator.rpn_head.objectness_logits.{linear}", "rpn/objectness/{linear}"),
        ("proposal_generator.rpn_head.anchor_deltas.{linear}", "rpn/deltas/{linear}"),
        ("roi_heads.box_head.{fc}.{linear}", "box_head/{fc}/{linear}"),
        ("roi_heads.box_predictor.cls_score.{linear}", "box_head/classes/{linear}"),
        ("roi_heads.box_predictor.bbox_pred.{linear}", "box_head/deltas/{linear}"),
        ("roi_heads.mask_head.{mask_fcn}.{linear}", "mask_head/convs/{mask_fcn}/{linear}"),
        ("roi_heads.mask_head.deconv.{linear}", "mask_head/deconv/{linear}"),
        ("roi_heads.mask_head.predictor.{linear}", "mask_head/logits/{linear}"),
        ("roi_heads.keypoint_head.{conv_fcn}.{linear}", "keypoint_head/convs/{conv_fcn}/{linear}"),
        ("roi_heads.keypoint_head.score_lowres.{linear}", "keypoint_head/deconv/{linear}"),
    ),
    words={
        "stage": {f"res{i}": f"res{i}" for i in range(2, 6)},
        "level": {str(i + 2): str(i) for i in range(4)},
        "fc": {"fc1": "fc1", "fc2": "fc2"},
        "mask_fcn": {f"mask_fcn{i + 1}": str(i) for i in range(4)},
        "conv_fcn": {f"conv_fcn{i + 1}": str(i) for i in range(32)},
        "stat": TORCH_NORM,
        "linear": TORCH_LINEAR,
    },
    read=read.caffe2_pickle,
    ignored=(r".*cell_anchors\.\d+", "pixel_mean", "pixel_std", r".*\.num_batches_tracked"),
    mean=(123.675 / 255, 116.28 / 255, 103.53 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
    bgr=True,
    background_last=True,
)
