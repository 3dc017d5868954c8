"""PyTorchVideo `.pyth` files of C2D and I3D, and PySlowFast files that hold a PyTorchVideo network."""

from nl_jax.weights import read
from nl_jax.weights.table import TORCH_LINEAR, TORCH_NORM, Source

ROWS = (
    ("blocks.0.conv.weight", "conv1/kernel"),
    ("blocks.0.norm.{stat}", "norm1/{stat}"),
    ("blocks.{stage}.res_blocks.{block}.branch2.conv_{conv}.weight", "{stage}/{block}/conv{conv}/kernel"),
    ("blocks.{stage}.res_blocks.{block}.branch2.norm_{conv}.{stat}", "{stage}/{block}/norm{conv}/{stat}"),
    ("blocks.{stage}.res_blocks.{block}.branch1_conv.weight", "{stage}/{block}/shortcut/kernel"),
    ("blocks.{stage}.res_blocks.{block}.branch1_norm.{stat}", "{stage}/{block}/shortcut_norm/{stat}"),
    ("blocks.6.proj.{linear}", "classifier/fc/{linear}"),
)
SOURCE = Source(
    # A PySlowFast file of a PyTorchVideo network has one more prefix before the names.
    rows=(*ROWS, *((f"model.{theirs}", ours) for theirs, ours in ROWS)),
    words={
        # Block 2 is the pool between the first two stages.
        "stage": {"1": "res2", "3": "res3", "4": "res4", "5": "res5"},
        "conv": {"a": "1", "b": "2", "c": "3"},
        "stat": TORCH_NORM,
        "linear": TORCH_LINEAR,
    },
    read=read.torch_file,
    ignored=(r".*\.num_batches_tracked",),
    geometries=("slowfast",),
)
