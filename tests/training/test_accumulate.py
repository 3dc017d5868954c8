import jax
import numpy as np
import optax
import pytest
from flax import nnx

from configs import common
from nl_jax.errors import InputError
from nl_jax.models import ResNetConfig, VideoResNet, flat
from nl_jax.tasks.classification import Classification
from nl_jax.training import sharding
from nl_jax.training.setup import check_parts
from nl_jax.training.step import TrainState, make_train_step

NETWORK = ResNetConfig(
    blocks_per_stage=(1,),
    width=4,
    geometry="small",
    num_classes=3,
    group_size=2,
    dropout=0.0,
    nonlocal_blocks={"res2": (0,)},
    nonlocal_options={"norm": "frozen"},
)


def step_of(data, parts, video, label, randomise):
    """Returns the loss, new parameters and new statistics after one step of plain gradient descent."""
    mesh = sharding.make_mesh(data, 1, devices=jax.devices()[:data])
    graphdef, *arrays = flat.split(randomise(lambda: VideoResNet(NETWORK, rngs=nnx.Rngs(0))))
    optimizer = optax.sgd(0.1)
    train_state = TrainState(np.int32(0), *arrays, optimizer.init(arrays[0]))
    before = jax.device_get(arrays)
    train_state = jax.device_put(train_state, sharding.state_shardings(mesh, train_state))
    step = make_train_step(
        graphdef, Classification(common.base()).loss, optimizer, lambda step: 0.1, mesh, train_state, parts
    )
    batch = sharding.put_batch({"video": video, "label": label}, mesh, parts)
    after, metrics = step(train_state, batch, jax.random.key(0))
    return jax.device_get((metrics, after.params, after.batch_stats)), before


def test_parts_give_the_gradient_and_the_statistics_of_the_whole(randomise):
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (12, 3, 8, 8, 3), dtype=np.uint8)
    video[:4] //= 4  # groups differ, so that the variance of their means counts
    label = rng.integers(0, 3, 12).astype(np.int32)
    expected, (params, stats) = step_of(1, 1, video, label, randomise)
    found, _ = step_of(2, 3, video, label, randomise)
    for part, before in ((0, None), (1, params), (2, stats)):
        for name, value in expected[part].items():
            # Steps are compared, because the old value of a parameter says nothing about the gradient.
            old = 0.0 if before is None else before[name]
            scale = np.abs(value - old).max()
            np.testing.assert_allclose(found[part][name] - old, value - old, rtol=0, atol=1e-5 * scale + 1e-6)
    frozen = [name for name in stats if "nonlocal_block" in name]
    assert frozen and all((found[2][name] == stats[name]).all() for name in frozen)  # equal to the last bit
    assert all((found[2][name] != stats[name]).any() for name in stats if name not in frozen)


def test_rows_of_a_part_are_spread_over_the_devices(mesh_of):
    batch = sharding.put_batch({"label": np.arange(12)}, mesh_of(2), accumulate=3)["label"]
    np.testing.assert_array_equal(batch, np.arange(12).reshape(3, 4))
    assert [s.data.tolist() for s in batch.addressable_shards] == [
        [[0, 1], [4, 5], [8, 9]],
        [[2, 3], [6, 7], [10, 11]],
    ]


@pytest.mark.parametrize(
    "batch_size, parts, norm, message",
    [
        (16, 3, "batch", "accumulate_steps=3 does not divide batch_size=16"),
        (16, 4, "batch", r"accumulate_steps=4 cuts a batch of 16 .* whole groups of 8 .* use one of \[1, 2\]"),
        (4, 2, "batch", r"accumulate_steps=2 cuts a batch of 4 .* use one of \[1\]"),
        (16, 2, "global", "accumulate_steps=2 with norm='global'"),
    ],
)
def test_parts_that_would_change_the_statistics(batch_size, parts, norm, message):
    with pytest.raises(InputError, match=message):
        check_parts(batch_size, parts, ResNetConfig(norm=norm))


def test_parts_that_would_not():
    check_parts(16, 2, ResNetConfig())
    check_parts(4, 4, ResNetConfig(norm="frozen"))
    check_parts(4, 1, ResNetConfig(norm="global"))
