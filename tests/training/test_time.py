"""Frames of a clip split over devices: the numbers are the same, and no device holds all activations of a clip."""

import re

import jax
import numpy as np
import pytest
from flax import nnx

from configs import common
from nl_jax.models import ResNetConfig, VideoResNet, flat
from nl_jax.tasks.classification import Classification
from nl_jax.training import sharding
from nl_jax.training.optimizer import make_optimizer, make_schedule
from nl_jax.training.precise_bn import make_moments
from nl_jax.training.step import create_state, make_forward, make_train_step

NETWORK = ResNetConfig(
    blocks_per_stage=(1, 1),
    width=4,
    inflate="3x1x1",
    num_classes=3,
    group_size=2,
    dropout=0.0,
    nonlocal_blocks={"res2": (0,), "res3": (0,)},
    nonlocal_options={"pairwise": "embedded_gaussian", "res3": {"pairwise": "dot_product"}},
)
TASK = Classification(common.base())
FORWARD = TASK.scores(multi_label=False)
SHAPE = (4, 32, 24, 24, 3)  # 32 frames become 16, 8 and 4
KEYS = 8 * 3 * 3  # keys of a clip in the block after res2, subsampled
FEATURES = 8  # channels of a key there


def build(mesh):
    optimizer_config = common.base().optimizer
    schedule = make_schedule(optimizer_config, 100)
    optimizer = make_optimizer(optimizer_config, schedule)
    graphdef, _, _ = flat.abstract(lambda: VideoResNet(NETWORK, rngs=nnx.Rngs(0)))
    train_state = create_state(lambda rngs: VideoResNet(NETWORK, rngs=rngs), optimizer, mesh, seed=0)
    # New blocks are the identity. These blocks are not, so their queries and keys count.
    params = {n: p + 0.5 if n.endswith("nonlocal_block/norm/scale") else p for n, p in train_state.params.items()}
    train_state = train_state.replace(params=params)
    return graphdef, train_state, make_train_step(graphdef, TASK.loss, optimizer, schedule, mesh, train_state)


def batch_of(seed, mesh):
    rng = np.random.default_rng(seed)
    video = rng.integers(0, 256, SHAPE, dtype=np.uint8)
    return sharding.put_batch({"video": video, "label": rng.integers(0, 3, len(video)).astype(np.int32)}, mesh)


def largest_array(program: str) -> int:
    """Returns the largest number of elements of any array in the text of a compiled program of one device."""
    shapes = re.findall(r"\b(?:f32|bf16|u8|s32|u32|pred)\[([\d,]+)\]", program)
    return max(int(np.prod([int(size) for size in shape.split(",")])) for shape in shapes)


def collected(program: str) -> list[int]:
    """Returns the number of elements of each array that a collective gathers from other devices."""
    results = re.findall(r"= (.*?) (?:all-gather|all-reduce|all-to-all|collective-broadcast)(?:-start)?\(", program)
    shapes = re.findall(r"\[([\d,]*)\]", " ".join(results))
    assert shapes
    return [int(np.prod([int(size) for size in shape.split(",") if size])) for shape in shapes]


@pytest.fixture(scope="module")
def programs():
    """Returns for (one device, two by four): the compiled step, forward and moments, with their results."""
    made = []
    with jax.numpy_dtype_promotion("standard"):
        for data, time in ((1, 1), (2, 4)):
            mesh = sharding.make_mesh(data, 1, time, devices=jax.devices()[: data * time])
            graphdef, train_state, step = build(mesh)
            key, inputs = jax.random.key(0), {"video": batch_of(0, mesh)["video"]}
            arguments = (train_state.params, train_state.batch_stats, inputs)
            forward = make_forward(graphdef, FORWARD, mesh).lower(*arguments).compile()
            moments = make_moments(graphdef, FORWARD, mesh).lower(*arguments).compile()
            found = {"scores": np.asarray(forward(*arguments)), "moments": jax.device_get(moments(*arguments))}
            step = step.lower(train_state, batch_of(0, mesh), key).compile()
            losses = []
            for i in range(5):
                train_state, metrics = step(train_state, batch_of(i, mesh), key)
                losses.append(float(metrics["loss"]))
            found |= {"losses": losses, "stats": jax.device_get(train_state.batch_stats)}
            made.append(({"step": step, "forward": forward, "moments": moments}, found))
    return made


def test_splitting_frames_changes_nothing(programs):
    (_, expected), (_, found) = programs
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-5)
    # Some scores are as small as 1e-18. There a logit of 40 differs by as much as the scores do.
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=1e-4)
    for what in ("moments", "stats"):
        for name, value in expected[what].items():
            scale = np.abs(value).max()
            np.testing.assert_allclose(found[what][name], value, rtol=0, atol=1e-5 * scale, err_msg=f"{what} {name}")


@pytest.mark.parametrize("name", ["step", "forward", "moments"])
def test_no_device_holds_the_activations_of_a_whole_clip(programs, name):
    (whole, _), (split, _) = programs
    whole, split = whole[name], split[name]
    # A device holds an eighth: half of the clips, a quarter of their frames, and the neighbours that a
    # convolution needs.
    assert largest_array(split.as_text()) <= largest_array(whole.as_text()) / 8 * 1.5
    # With its parameters, which are whole, a device needs less than twice an eighth of the memory.
    memory = [program.memory_analysis().temp_size_in_bytes for program in (whole, split)]
    assert memory[1] <= memory[0] / 8 * 2
    # Only keys, values and gradients of parameters are gathered. The largest gradient is that of the stem.
    allowed = max(SHAPE[0] // 2 * KEYS * FEATURES, 5 * 7 * 7 * 3 * NETWORK.width)
    assert max(collected(split.as_text())) <= allowed
