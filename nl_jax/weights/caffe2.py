"""Caffe2 pickles of the paper's release, PySlowFast's zoo and long-term feature banks, with batch norm or affine."""

from nl_jax.weights import read
from nl_jax.weights.table import Source

SOURCE = Source(
    rows=(
        ("conv1_w", "conv1/kernel"),
        ("res_conv1_bn_{stat}", "norm1/{stat}"),
        ("res{stage}_{block}_branch2{conv}_w", "res{stage}/{block}/conv{conv}/kernel"),
        ("res{stage}_{block}_branch2{conv}_bn_{stat}", "res{stage}/{block}/norm{conv}/{stat}"),
        ("res{stage}_{block}_branch1_w", "res{stage}/{block}/shortcut/kernel"),
        ("res{stage}_{block}_branch1_bn_{stat}", "res{stage}/{block}/shortcut_norm/{stat}"),
        ("nonlocal_conv{stage}_{block}_{embed}_{linear}", "res{stage}/{block}/nonlocal_block/{embed}/{linear}"),
        ("nonlocal_conv{stage}_{block}_bn_{stat}", "res{stage}/{block}/nonlocal_block/norm/{stat}"),
        ("pred_{linear}", "classifier/fc/{linear}"),
    ),
    words={
        "conv": {"a": "1", "b": "2", "c": "3"},
        "stat": {"s": "scale", "b": "bias", "rm": "mean", "riv": "var"},  # riv is the variance, not its inverse
        "embed": {"theta": "theta", "phi": "phi", "g": "g", "out": "w_z"},
        "linear": {"w": "kernel", "b": "bias"},
    },
    read=read.caffe2_pickle,
    ignored=("lr", "model_iter", ".*_momentum"),
    # The last two belong to PySlowFast's zoo and to long-term feature banks.
    geometries=("caffe2_32", "caffe2_8", "slowfast", "slowfast_nopool"),
    epsilon=1.0000001e-5,
    affine=True,
)
