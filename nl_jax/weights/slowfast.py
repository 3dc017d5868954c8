"""PySlowFast `.pyth` files of C2D, I3D and their non-local versions."""

from nl_jax.weights import read
from nl_jax.weights.table import TORCH_LINEAR, TORCH_NORM, Source

SOURCE = Source(
    rows=(
        ("s1.pathway0_stem.conv.weight", "conv1/kernel"),
        ("s1.pathway0_stem.bn.{stat}", "norm1/{stat}"),
        ("s{stage}.pathway0_res{block}.branch2.{conv}.weight", "res{stage}/{block}/conv{conv}/kernel"),
        ("s{stage}.pathway0_res{block}.branch2.{conv}_bn.{stat}", "res{stage}/{block}/norm{conv}/{stat}"),
        ("s{stage}.pathway0_res{block}.branch1.weight", "res{stage}/{block}/shortcut/kernel"),
        ("s{stage}.pathway0_res{block}.branch1_bn.{stat}", "res{stage}/{block}/shortcut_norm/{stat}"),
        (
            "s{stage}.pathway0_nonlocal{block}.conv_{embed}.{linear}",
            "res{stage}/{block}/nonlocal_block/{embed}/{linear}",
        ),
        ("s{stage}.pathway0_nonlocal{block}.bn.{stat}", "res{stage}/{block}/nonlocal_block/norm/{stat}"),
        ("head.projection.{linear}", "classifier/fc/{linear}"),
    ),
    words={
        "conv": {"a": "1", "b": "2", "c": "3"},
        "stat": TORCH_NORM,
        "embed": {"theta": "theta", "phi": "phi", "g": "g", "out": "w_z"},
        "linear": TORCH_LINEAR,
    },
    read=read.torch_file,
    ignored=(r".*\.num_batches_tracked",),
    geometries=("slowfast", "slowfast_nopool"),
)
