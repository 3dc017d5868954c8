"""Mask R-CNN with a feature pyramid from mmdetection 3, `.pth`.

A file does not contain the following settings. The corners of anchors are not whole pixels (round_anchors=False), and
RoIAlign has aligned=True. In mmdetection the number of samples of a bin depends on the box. Here it is `samples` for
every box.
"""

from nl_jax.weights import read, torchvision
from nl_jax.weights.table import IMAGENET_MEAN, IMAGENET_STD, Source

SOURCE = Source(
    rows=(
        *((f"backbone.{theirs}", f"backbone/{ours}") for theirs, ours in torchvision.SOURCE.rows[:-1]),
        ("neck.lateral_convs.{level}.conv.{linear}", "fpn/lateral/{level}/{linear}"),
        ("neck.fpn_convs.{level}.conv.{linear}", "fpn/output/{level}/{linear}"),
        ("rpn_head.rpn_conv.{linear}", "rpn/conv/{linear}"),
        ("rpn_head.rpn_cls.{linear}", "rpn/objectness/{linear}"),
        ("rpn_head.rpn_reg.{linear}", "rpn/deltas/{linear}"),
        ("roi_head.bbox_head.shared_fcs.{fc}.{linear}", "box_head/{fc}/{linear}"),
        ("roi_head.bbox_head.fc_cls.{linear}", "box_head/classes/{linear}"),
        ("roi_head.bbox_head.fc_reg.{linear}", "box_head/deltas/{linear}"),
        ("roi_head.mask_head.convs.{conv}.conv.{linear}", "mask_head/convs/{conv}/{linear}"),
        ("roi_head.mask_head.upsample.{linear}", "mask_head/deconv/{linear}"),
        ("roi_head.mask_head.conv_logits.{linear}", "mask_head/logits/{linear}"),
    ),
    words={**torchvision.SOURCE.words, "fc": {"0": "fc1", "1": "fc2"}},
    read=read.torch_file,
    ignored=(r".*\.num_batches_tracked", r"data_preprocessor\..*"),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    background_last=True,
)
