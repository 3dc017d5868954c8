"""A run that is small enough to be repeated many times: the embedded task, with two stages of four channels."""

import jax
import pytest

from configs import quickstart
from nl_jax.training import sharding


@pytest.fixture(autouse=True)
def optax_promotes():
    """Optax mixes its step count with floats. Our own code is tested under strict promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="session")
def tiny():
    """Returns tiny(row, **changes): a config whose run takes seconds. The changes are {"a.b": value}."""

    def make(row="nl_c2d", changes=None):
        config = quickstart.get_config(row)
        small = {
            "steps": 6,
            "batch_size": 16,
            "recipe_batch_size": 16,
            "eval_batch_size": 8,
            "precise_bn_batches": 2,
            "eval_every": 3,
            "log_every": 1,
            "checkpoint_every": 2,
            "model.blocks_per_stage": (1, 1),
            "model.nonlocal_blocks.res3": (0,) if row == "nl_c2d" else (),
            "model.width": 4,
            "model.dropout": 0.5,
            "data.validation_size": 8,
            "data.test_size": 16,
            "optimizer.warmup_steps": 2,
            "optimizer.warmup_start": 0.1,
            "start.stage": "",
        }
        config.update_from_flattened_dict(small | (changes or {}))
        return config

    return make


@pytest.fixture
def mesh_of():
    """Returns mesh_of(data, fsdp, time): a mesh over the first devices only, however many there are."""

    def make(data, fsdp=1, time=1):
        return sharding.make_mesh(data, fsdp, time, devices=jax.devices()[: data * fsdp * time])

    return make
