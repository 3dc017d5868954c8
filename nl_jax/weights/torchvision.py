"""ImageNet ResNets of torchvision and timm, `.pth` or `.safetensors`, inflated in time."""

from nl_jax.weights import read
from nl_jax.weights.table import IMAGENET_MEAN, IMAGENET_STD, TORCH_LINEAR, TORCH_NORM, Source

SOURCE = Source(
    rows=(
        ("conv1.weight", "conv1/kernel"),
        ("bn1.{stat}", "norm1/{stat}"),
        ("{stage}.{block}.conv{conv}.weight", "{stage}/{block}/conv{conv}/kernel"),
        ("{stage}.{block}.bn{conv}.{stat}", "{stage}/{block}/norm{conv}/{stat}"),
        ("{stage}.{block}.downsample.0.weight", "{stage}/{block}/shortcut/kernel"),
        ("{stage}.{block}.downsample.1.{stat}", "{stage}/{block}/shortcut_norm/{stat}"),
        ("fc.{linear}", "classifier/fc/{linear}"),
    ),
    words={
        "stage": {"layer1": "res2", "layer2": "res3", "layer3": "res4", "layer4": "res5"},
        "stat": TORCH_NORM,
        "linear": TORCH_LINEAR,
    },
    read=read.torch_file,
    ignored=(r".*\.num_batches_tracked",),
    images=True,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)
