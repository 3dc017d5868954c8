"""Controls: blocks of later papers in the places of the paper's five blocks. C2D ResNet-50 on Kinetics.

    python -m experiments.train --config=configs/controls_after.py:global_context --workdir=runs/global_context \
        --config.data.train=TRAIN --config.data.validation=VAL --config.data.test=VAL \
        --config.images.train=IMAGES --config.images.validation=VAL_IMAGES

None of these rows is in the paper. `nl_jax/models/variants.py` has the blocks with their formulas and sources. Cao et
al. (GCNet, 2019) asked whether each position needs its own attention. In `global_context` and `simplified` all
positions share one sum. On the embedded task (the flag `laptop`) the label is a relation between two places, and a
network can find one of the two places without the other. docs/reproduction.md has the results of this command:

    python -m experiments.reproduce controls_after --laptop --seeds=5
"""

from configs import kinetics, table2c
from configs.kinetics import NL5, R50

VARIANTS = (
    "global_context",
    "simplified",
    "disentangled",
    "double_attention",
    "compact_generalized",
    "several_heads",
    "pyramid_keys",
)
ROWS = {
    "baseline": table2c.ROWS["baseline_r50"],
    "five_blocks": table2c.ROWS["r50_5"],
    **{name: R50 | NL5 | {"model.nonlocal_options.variant": name} for name in VARIANTS},
}


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    return kinetics.row_of(ROWS, argument)
