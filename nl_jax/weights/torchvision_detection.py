"""Mask R-CNN and Keypoint R-CNN with a feature pyramid from torchvision, `.pth` or `.safetensors`.

A file does not contain the following settings. The COCO weights of 2019 have norms with epsilon 0
(ResNetConfig.norm_epsilon=0) and anchors with floor_strides=True.
"""

from nl_jax.weights import read, torchvision
from nl_jax.weights.table import IMAGENET_MEAN, IMAGENET_STD, Source

SOURCE = Source(
    rows=(
        *((f"backbone.body.{theirs}", f"backbone/{ours}") for theirs, ours in torchvision.SOURCE.rows[:-1]),
        ("backbone.fpn.inner_blocks.{level}.0.{linear}", "fpn/lateral/{level}/{linear}"),
        ("backbone.fpn.layer_blocks.{level}.0.{linear}", "fpn/output/{level}/{linear}"),
        ("rpn.head.conv.0.0.{linear}", "rpn/conv/{linear}"),
        ("rpn.head.cls_logits.{linear}", "rpn/objectness/{linear}"),
        ("rpn.head.bbox_pred.{linear}", "rpn/deltas/{linear}"),
        ("roi_heads.box_head.{fc}.{linear}", "box_head/{fc}/{linear}"),
        ("roi_heads.box_predictor.cls_score.{linear}", "box_head/classes/{linear}"),
        ("roi_heads.box_predictor.bbox_pred.{linear}", "box_head/deltas/{linear}"),
        ("roi_heads.mask_head.{conv}.0.{linear}", "mask_head/convs/{conv}/{linear}"),
        ("roi_heads.mask_predictor.conv5_mask.{linear}", "mask_head/deconv/{linear}"),
        ("roi_heads.mask_predictor.mask_fcn_logits.{linear}", "mask_head/logits/{linear}"),
        ("roi_heads.keypoint_head.{with_relu}.{linear}", "keypoint_head/convs/{with_relu}/{linear}"),
        ("roi_heads.keypoint_predictor.kps_score_lowres.{linear}", "keypoint_head/deconv/{linear}"),
        # The names before version 0.12.
        ("backbone.fpn.inner_blocks.{level}.{linear}", "fpn/lateral/{level}/{linear}"),
        ("backbone.fpn.layer_blocks.{level}.{linear}", "fpn/output/{level}/{linear}"),
        ("rpn.head.conv.{linear}", "rpn/conv/{linear}"),
        ("roi_heads.mask_head.{mask_fcn}.{linear}", "mask_head/convs/{mask_fcn}/{linear}"),
    ),
    words={
        **torchvision.SOURCE.words,
        "fc": {"fc6": "fc1", "fc7": "fc2"},
        # A convolution has an even index, because a ReLU follows every convolution in the list.
        "with_relu": {str(2 * i): str(i) for i in range(32)},
        "mask_fcn": {f"mask_fcn{i + 1}": str(i) for i in range(4)},
    },
    read=read.torch_file,
    ignored=(r".*\.num_batches_tracked",),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)
