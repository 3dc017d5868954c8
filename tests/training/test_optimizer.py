import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from configs import common
from nl_jax.errors import InputError
from nl_jax.training.optimizer import decayed, make_optimizer, make_schedule, missed_decays


def optimizer_config(**changes) -> ConfigDict:
    config = common.base().optimizer
    config.update(changes)
    return config


def test_the_papers_schedule():
    schedule = make_schedule(optimizer_config(), 400_000)
    for step, rate in ((0, 0.01), (149_999, 0.01), (150_000, 0.001), (300_000, 0.0001), (399_999, 0.0001)):
        np.testing.assert_allclose(schedule(jnp.asarray(step)), rate, rtol=1e-5)


def test_warm_up_is_linear_and_cosine_ends_at_zero():
    schedule = make_schedule(optimizer_config(schedule="cosine", learning_rate=1.0, warmup_steps=10), 110)
    found = [float(schedule(jnp.asarray(step))) for step in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(found, [0.1, 0.55, 1.0, 0.5, 0.0], atol=1e-6)


def test_a_warm_up_ends_on_a_cosine_that_begins_with_the_run():
    """The rate of epoch e of 20, with a warm-up of 5 from 0.01, as PySlowFast defines it."""
    fields = {"schedule": "cosine", "learning_rate": 0.2, "warmup_start": 0.05, "warmup_steps": 50}
    schedule = make_schedule(optimizer_config(cosine_from_start=True, **fields), 200)
    cosine = [0.2 * (np.cos(np.pi * epoch / 20) + 1) / 2 for epoch in range(21)]
    expected = [0.01 + epoch * (cosine[5] - 0.01) / 5 if epoch < 5 else cosine[epoch] for epoch in range(21)]
    np.testing.assert_allclose([float(schedule(jnp.asarray(10 * epoch))) for epoch in range(21)], expected, atol=1e-7)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_against_its_formula(nesterov):
    """v = m v + g + w p; p = p - r v, or p - r (g + w p + m v) with Nesterov; norms have w = 0."""
    config = optimizer_config(schedule="constant", learning_rate=0.1, weight_decay=0.5, nesterov=nesterov)
    optimizer = make_optimizer(config, make_schedule(config, 10))
    params = {"conv1/kernel": jnp.asarray([1.0, -2.0]), "norm1/scale": jnp.asarray([3.0])}
    opt_state = optimizer.init(params)
    rng = np.random.default_rng(0)
    expected = {name: np.asarray(value, np.float64) for name, value in params.items()}
    velocity = {name: np.zeros_like(value) for name, value in expected.items()}
    for _ in range(4):
        grads = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in expected.items()}
        updates, opt_state = optimizer.update({n: jnp.asarray(g) for n, g in grads.items()}, opt_state, params)
        params = optax.apply_updates(params, updates)
        for name in expected:
            g = grads[name] + (0.5 * expected[name] if name == "conv1/kernel" else 0)
            velocity[name] = 0.9 * velocity[name] + g
            expected[name] = expected[name] - 0.1 * (g + 0.9 * velocity[name] if nesterov else velocity[name])
    for name in expected:
        np.testing.assert_allclose(params[name], expected[name], rtol=1e-5)


def test_only_norms_are_not_decayed():
    names = ["conv1/kernel", "norm1/scale", "res2/0/shortcut_norm/bias", "classifier/fc/bias"]
    names += ["res3/1/nonlocal_block/norm/scale", "res3/1/nonlocal_block/theta/bias"]
    assert [name for name, yes in decayed(dict.fromkeys(names)).items() if not yes] == [names[1], names[2], names[4]]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"cosine_from_start": True}, r"cosine_from_start=True with optimizer.schedule='step'; valid is cosine"),
        ({"schedule": "poly"}, r"optimizer\.schedule='poly' is unknown; choose one of step, steps, cosine, constant"),
        ({"schedule": "steps"}, r"optimizer\.schedule='steps' needs optimizer\.decay_at"),
        ({"name": "lars"}, r"optimizer\.name='lars' is unknown; choose sgd or adamw"),
        ({"schedule": "steps", "decay_at": (0, 5)}, r"decay_at=\(0, 5\) is out of range; choose steps of 1 or more"),
        ({"warmup_steps": 20}, r"optimizer\.warmup_steps=20 must be fewer than steps=20"),
    ],
)
def test_unknown_choices(changes, message):
    config = optimizer_config(**changes)
    with pytest.raises(InputError, match=message):
        make_optimizer(config, make_schedule(config, 20))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"schedule": "step", "decay_every": 20}, "never decays: optimizer.decay_every=20 and steps=20"),
        ({"schedule": "steps", "decay_at": (5, 20, 30)}, "does not decay at 20, 30: the run ends at step 20"),
        ({"schedule": "steps", "decay_at": (5, 19)}, ""),
        ({"schedule": "cosine"}, ""),
    ],
)
def test_decays_after_the_end_are_named(changes, said):
    found = missed_decays(optimizer_config(**changes), 20)
    assert said in found if said else not found
