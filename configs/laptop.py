"""The flag `laptop`: a row of the tables as a small network on the embedded task, minutes on one core.

    python -m experiments.train --config=configs/table2a.py:concatenation,laptop --workdir=runs/concatenation

The small row keeps the subject of the row: the pairwise function, the stage, the number of blocks, the axes, the
inflated kernels, the longer clip, the start from images or from shorter clips. These things become smaller:

| full scale | with the flag `laptop` |
|---|---|
| Kinetics; ImageNet for the start | clips of `nl_jax.data.embedded.long_range`; its images |
| 32 frames; 128 in tables 2g and 3 | 4 frames; 16 |
| ResNet-50: residual blocks (3, 4, 6, 3), width 64 | (1, 2, 3, 1), width 8 |
| ResNet-101: (3, 4, 23, 3) | (1, 2, 6, 1) |
| 1 block: before the last residual block of res4 | the same |
| 5 blocks: after every other residual block of res3 and res4 | after every residual block of res3 and res4: also five |
| 10 blocks: after every residual block of res3 and res4 | after every residual block: seven; in the deeper one ten |
| a block in one stage, before its last residual block | the same; after it if the stage has only one |
"""

from ml_collections import ConfigDict

from configs import common

BLOCKS_PER_STAGE = {50: (1, 2, 3, 1), 101: (1, 2, 6, 1)}
FIVE = {50: {"res3": (0, 1), "res4": (0, 1, 2)}, 101: {"res3": (0, 1), "res4": (0, 2, 4)}}
FRAMES = {32: 4, 128: 16}
IMAGES = {
    "data.images": True,
    "steps": 400,
    "batch_size": 128,
    "eval_batch_size": 256,
    "optimizer.learning_rate": 3e-3,
    "optimizer.classifier_rate": 1.0,
    "optimizer.warmup_steps": 30,
}
# As in table 2g, the run starts from the network of short clips, with frozen batch norm, a lower rate and fewer clips.
LONG = {
    "steps": 200,
    "batch_size": 16,
    "optimizer.learning_rate": 2e-4,
    "optimizer.classifier_rate": 1.0,
    "optimizer.warmup_steps": 20,
    "model.norm": "frozen",
}
BLOCK_KEPT = (f"model.nonlocal_options.{name}" for name in ("pairwise", "axes", "variant"))
KEPT = ("model.inflate", "model.norm", *BLOCK_KEPT, "paper")


def counterpart(row: dict) -> ConfigDict:
    """Returns the small config of a row of the tables.

    Args:
        row: the changes that the row makes to the paper's recipe.
    """
    depth = row.get("model.depth", 50)
    blocks = row.get("model.blocks_per_stage") or BLOCKS_PER_STAGE[depth]
    changes = {name: row[name] for name in KEPT if name in row} | {"model.blocks_per_stage": blocks}
    if after := _after(row, depth, blocks):
        changes |= {f"model.nonlocal_blocks.{stage}": positions for stage, positions in after.items()}
        changes["model.nonlocal_options.scale"] = "rsqrt_d"  # without it the softmax of a new block is nearly one-hot
    if stage := row.get("start.stage"):
        changes["start.stage"] = f"{stage},laptop"
    if "model.inflate" in row:  # each frame shows another thing, and a mean over planes would mix the frames
        changes["start.planes"] = "center"
    frames = row.get("data.frames", 32)
    if frames == 1:
        changes |= IMAGES
    else:
        changes["data.frames"] = FRAMES[frames]
        changes |= LONG if frames == 128 else {}
    return common.update(recipe(), changes)


def _after(row: dict, depth: int, blocks: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Returns, for each stage, the residual blocks that a non-local block follows."""
    named = {f"res{i}": count for i, count in enumerate(blocks, start=2)}
    before_last = {stage: (max(0, count - 2),) for stage, count in named.items()}
    preset = row.get("model.nonlocal_preset", 0)
    if preset == 1:
        return {"res4": before_last["res4"]}
    if preset == 5:
        return FIVE[depth]
    if preset == 10:
        return {stage: tuple(range(count)) for stage, count in named.items()}
    return {stage: before_last[stage] for stage in named if row.get(f"model.nonlocal_blocks.{stage}")}


def recipe() -> ConfigDict:
    """Returns the recipe of all small networks."""
    config = common.base()
    config.data = common.long_range_data()
    config.data.kinds = 3
    config.data.digits = 3
    config.steps = 1000
    config.batch_size = 32
    config.eval_batch_size = 50
    config.eval_every = 0
    config.checkpoint_every = 500
    config.precise_bn_batches = 10

    config.model.width = 8
    config.model.geometry = "small"
    config.model.dropout = 0.0

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 7e-4
    config.optimizer.classifier_rate = 10.0
    config.optimizer.clip_norm = 1.0
    config.optimizer.weight_decay = 1e-2
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 60
    config.optimizer.warmup_start = 0.0
    return config
