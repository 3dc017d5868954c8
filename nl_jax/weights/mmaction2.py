"""mmaction2 `.pth` files: I3D and C2D, with or without non-local blocks."""

from nl_jax.weights import read
from nl_jax.weights.table import IMAGENET_MEAN, IMAGENET_STD, TORCH_LINEAR, TORCH_NORM, Source

SOURCE = Source(
    rows=(
        ("backbone.conv1.conv.weight", "conv1/kernel"),
        ("backbone.conv1.bn.{stat}", "norm1/{stat}"),
        ("backbone.{stage}.{block}.conv{conv}.conv.weight", "{stage}/{block}/conv{conv}/kernel"),
        ("backbone.{stage}.{block}.conv{conv}.bn.{stat}", "{stage}/{block}/norm{conv}/{stat}"),
        ("backbone.{stage}.{block}.downsample.conv.weight", "{stage}/{block}/shortcut/kernel"),
        ("backbone.{stage}.{block}.downsample.bn.{stat}", "{stage}/{block}/shortcut_norm/{stat}"),
        (
            "backbone.{stage}.{block}.non_local_block.{embed}.conv.{linear}",
            "{stage}/{block}/nonlocal_block/{embed}/{linear}",
        ),
        ("backbone.{stage}.{block}.non_local_block.conv_out.bn.{stat}", "{stage}/{block}/nonlocal_block/norm/{stat}"),
        ("cls_head.fc_cls.{linear}", "classifier/fc/{linear}"),
    ),
    words={
        "stage": {"layer1": "res2", "layer2": "res3", "layer3": "res4", "layer4": "res5"},
        "stat": TORCH_NORM,
        # If keys are subsampled, a pool follows phi and g, and the layers have numbers.
        "embed": {
            "theta": "theta",
            "phi": "phi",
            "phi.0": "phi",
            "g": "g",
            "g.0": "g",
            "conv_out": "w_z",
            "concat_project": "w_f",
        },
        "linear": TORCH_LINEAR,
    },
    read=read.torch_file,
    ignored=(r".*\.num_batches_tracked",),
    geometries=("mmaction2",),
    # mmaction2's C2D keeps 2-D kernels. It has the pools over time of the release for 8 frames, or no pools over time.
    geometries_2d=("caffe2_8", "slowfast_nopool"),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)
