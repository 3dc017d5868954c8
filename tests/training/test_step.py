from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from configs import common
from nl_jax.data.loader import TrainBatches
from nl_jax.errors import InputError
from nl_jax.models import flat
from nl_jax.tasks.classification import Classification
from nl_jax.training import sharding
from nl_jax.training.optimizer import make_schedule
from nl_jax.training.preprocessing import make_normalize
from nl_jax.training.step import create_state, make_forward, make_train_step


def start(config, mesh):
    """Returns all parts that the loop sets up, and the first five batches."""
    task = Classification(config)
    dataset = task.open_split("train")
    build = partial(task.build, len(dataset.classes))
    schedule = make_schedule(config.optimizer, config.steps)
    optimizer = task.optimizer(schedule)
    graphdef, _, _ = flat.abstract(lambda: build(nnx.Rngs(0)))
    train_state = create_state(build, optimizer, mesh, seed=0)
    train_step = make_train_step(graphdef, task.loss, optimizer, schedule, mesh, train_state)
    batches = TrainBatches(dataset, batch_size=config.batch_size, seed=0)
    batches = [{name: batch[name] for name in ("video", "label")} for batch, _ in zip(batches, range(5), strict=False)]
    return graphdef, train_state, train_step, batches


def run(config, mesh):
    _, train_state, train_step, batches = start(config, mesh)
    losses = []
    for batch in batches:
        train_state, metrics = train_step(train_state, sharding.put_batch(batch, mesh), jax.random.key(1))
        losses.append(float(metrics["loss"]))
    assert train_step._cache_size() == 1  # compiled once
    return train_state, losses


@pytest.fixture
def sharded_arrays(monkeypatch):
    monkeypatch.setattr(sharding, "MIN_SHARDED_SIZE", 64)


def test_devices_change_nothing(tiny, mesh_of, sharded_arrays):
    """One device, eight for the batch, eight for the state, four by two for both or for the frames: equal numbers."""
    expected_state, expected = run(tiny(), mesh_of(1))
    for data, fsdp, time in ((8, 1, 1), (1, 8, 1), (2, 4, 1), (4, 1, 2)):
        found_state, found = run(tiny(), mesh_of(data, fsdp, time))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        for name, value in expected_state.batch_stats.items():
            atol = 1e-5 * np.abs(value).max()  # a mean near zero has the error of its terms
            np.testing.assert_allclose(found_state.batch_stats[name], value, rtol=0, atol=atol, err_msg=name)


def test_fsdp_splits_the_state_and_its_optimizer(tiny, mesh_of, sharded_arrays):
    _, train_state, _, _ = start(tiny(), mesh_of(1, 8))
    kernel = train_state.params["res3/0/conv2/kernel"]
    assert {shard.data.size for shard in kernel.addressable_shards} == {kernel.size // 8}
    moments = [leaf for leaf in jax.tree.leaves(train_state.opt_state) if leaf.shape == kernel.shape]
    assert moments and all(leaf.sharding == kernel.sharding for leaf in moments)


def test_parameters_and_statistics_move_and_dropout_is_drawn_anew(tiny, mesh_of):
    mesh = mesh_of(1)
    _, train_state, train_step, batches = start(tiny(), mesh)
    before = jax.device_get(train_state)
    batch = sharding.put_batch(batches[0], mesh)
    after, _ = train_step(train_state, batch, jax.random.key(1))
    # Blocks are new: inside them only the scale after W_z gets a gradient. Outside them all parameters do.
    moving = [n for n in before.params if "nonlocal_block" not in n or n.endswith("nonlocal_block/norm/scale")]
    moving = [n for n in moving if not n.startswith("conv1/")]
    # The first step of the warm-up has a learning rate above zero.
    assert all((before.params[name] != after.params[name]).any() for name in moving)
    assert all((before.batch_stats[name] != after.batch_stats[name]).any() for name in before.batch_stats)

    losses = set()
    for step in (0, 1):
        _, fresh, fresh_step, _ = start(tiny(), mesh)
        fresh = fresh.replace(step=jnp.asarray(step, jnp.int32))
        losses.add(float(fresh_step(fresh, batch, jax.random.key(1))[1]["loss"]))
    assert len(losses) == 2


def test_forward_is_a_softmax_with_running_statistics(tiny, mesh_of):
    mesh = mesh_of(2)
    config = tiny()
    graphdef, train_state, _, batches = start(config, mesh)
    forward = make_forward(graphdef, Classification(config).scores(multi_label=False), mesh)
    video = sharding.put_batch(batches[0], mesh)["video"]
    scores = forward(train_state.params, train_state.batch_stats, {"video": video})
    np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-5)
    alone = forward(train_state.params, train_state.batch_stats, {"video": jnp.concatenate([video[:1]] * 2)})
    np.testing.assert_allclose(alone[0], scores[0], rtol=1e-4)  # clips do not see each other


def test_normalize():
    video = jnp.asarray([[0, 255, 115]], jnp.uint8)
    found = make_normalize(common.base().input)(video)
    np.testing.assert_allclose(found, [[-2.0, 0.55 / 0.225, (115 / 255 - 0.45) / 0.225]], rtol=1e-6, atol=1e-6)
    imagenet = ConfigDict(dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))
    expected = [[-0.485 / 0.229, 0.544 / 0.224, (115 / 255 - 0.406) / 0.225]]
    np.testing.assert_allclose(make_normalize(imagenet)(video), expected, rtol=1e-5)


def test_several_labels_a_clip(tiny, mesh_of):
    config, mesh = tiny(changes={"optimizer.learning_rate": 0.0, "model.dropout": 0.0}), mesh_of(1)
    graphdef, train_state, train_step, batches = start(config, mesh)
    labels = np.random.default_rng(0).integers(2, size=(16, 5)).astype(np.float32)
    batch = sharding.put_batch({"video": batches[0]["video"], "label": labels}, mesh)
    model = flat.merge(graphdef, train_state.params, train_state.batch_stats)
    model.train()
    logits = np.asarray(model(make_normalize(config.input)(batch["video"]))[0], np.float64)
    _, metrics = train_step(train_state, batch, jax.random.key(0))
    p = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(metrics["loss"], -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p)), rtol=1e-5)
    np.testing.assert_allclose(metrics["top1"], labels[np.arange(16), logits.argmax(1)].mean(), rtol=1e-6)

    graphdef, train_state, _, _ = start(config, mesh)
    forwards = [make_forward(graphdef, Classification(config).scores(multi_label=m), mesh) for m in (True, False)]
    several, one = (f(train_state.params, train_state.batch_stats, {"video": batch["video"]}) for f in forwards)
    np.testing.assert_allclose(jax.nn.softmax(jax.scipy.special.logit(several)), one, rtol=1e-4)


@pytest.mark.parametrize(("field", "value"), [("mean", (0.5,)), ("std", (0.2, 0.2, 0.0)), ("std", (0.2, 0.2))])
def test_a_wrong_normalisation(field, value):
    config = common.base().input
    config[field] = value
    with pytest.raises(InputError, match=rf"input\.{field}=.* must be three numbers"):
        make_normalize(config)


def test_bfloat16_trains_with_float32_parameters(tiny, mesh_of):
    train_state, losses = run(tiny(changes={"model.dtype": "bfloat16"}), mesh_of(1))
    assert {leaf.dtype for leaf in train_state.params.values()} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in train_state.batch_stats.values()} == {jnp.dtype("float32")}
    _, expected = run(tiny(), mesh_of(1))
    np.testing.assert_allclose(losses, expected, rtol=0.05)
