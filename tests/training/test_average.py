"""An average of the weights: its formula, and that a run tests it, keeps it and goes on from beside it."""

import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nl_jax.errors import InputError, Preempted
from nl_jax.runs.stages import train
from nl_jax.tasks import restore_network, task_of
from nl_jax.training import optimizer as optimizers
from nl_jax.training import run as training_run
from nl_jax.training import setup, sharding
from nl_jax.training.checkpoint import Checkpoints
from nl_jax.training.optimizer import average_of, average_weights, make_optimizer
from nl_jax.training.step import TrainState

FIELDS = {"steps": 5, "optimizer.ema": 0.6, "loss.label_smoothing": 0.1, "loss.mixup": 0.3, "model.norm": "global"}


def test_the_average_is_that_of_its_formula():
    decay, rng = 0.7, np.random.default_rng(0)
    optimizer = optax.chain(optax.sgd(0.1), average_weights(decay))
    params = {"a/kernel": jnp.asarray([1.0, -2.0])}
    opt_state = optimizer.init(params)
    assert optimizers.tested_params(params, opt_state) is params  # no step has been taken
    seen = []
    for k in range(1, 6):
        grads = {"a/kernel": jnp.asarray(rng.normal(size=2), jnp.float32)}
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        seen.append(np.asarray(params["a/kernel"], np.float64))
        weights = [decay ** (k - i) for i in range(1, k + 1)]
        expected = sum(w * p for w, p in zip(weights, seen, strict=True)) / sum(weights)
        np.testing.assert_allclose(optimizers.tested_params(params, opt_state)["a/kernel"], expected, rtol=1e-5)
    np.testing.assert_allclose(average_of(opt_state).weight, 1 - decay**5, rtol=1e-6)


def test_without_it_an_optimizer_is_what_it_was(tiny):
    config = tiny().optimizer
    params = {"a/kernel": jnp.ones(3)}
    state = make_optimizer(config, lambda step: 0.1).init(params)
    assert average_of(state) is None and optimizers.tested_params(params, state) is params
    config.ema = 0.9
    kept = make_optimizer(config, lambda step: 0.1).init(params)
    assert jax.tree.structure(kept[:-1]) == jax.tree.structure(state) and average_of(kept) is kept[-1]


def test_a_decay_out_of_range_is_named(tiny, tmp_path):
    with pytest.raises(InputError, match=r"optimizer.ema=1.0 is out of range; choose 0 up to, not including, 1"):
        setup.check_run(task_of(tiny(changes={"optimizer.ema": 1.0})), tmp_path)


@pytest.fixture(scope="module")
def uninterrupted(tiny, tmp_path_factory):
    """The workdir of a whole run with all of FIELDS, and the weights that it tested at its end."""
    directory, tested = tmp_path_factory.mktemp("averaged") / "run", []

    class Spy(training_run.Evaluator):
        def __call__(self, task, params, *rest):
            tested.append(jax.device_get(params))
            return super().__call__(task, params, *rest)

    with jax.numpy_dtype_promotion("standard"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "Evaluator", Spy)
        train(tiny(changes=FIELDS), directory)
    return directory, tested


def test_a_run_tests_the_average_and_its_network_is_the_average(uninterrupted, tiny):
    directory, tested = uninterrupted
    assert len(tested) == 3  # two validations and the test
    _, params, statistics = restore_network(directory, sharding.make_mesh(-1, 1))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(params), tested[-1])
    optimizer = task_of(tiny(changes=FIELDS)).optimizer(lambda step: 0.1)
    like = TrainState(jnp.zeros((), jnp.int32), params, statistics, optimizer.init(params))
    with Checkpoints(directory) as checkpoints:
        restored, _ = checkpoints.restore(like)
    average = average_of(restored.opt_state)
    jax.tree.map(np.testing.assert_array_equal, average.average, params)
    np.testing.assert_allclose(average.weight, 1 - 0.6**5, rtol=1e-6)
    assert any((restored.params[name] != params[name]).any() for name in params), "the weights are kept beside it"


def test_it_goes_on_bit_for_bit(uninterrupted, tiny, tmp_path, monkeypatch):
    def put(batch, mesh, *parts, put=sharding.put_batch, calls=iter(range(100))):  # noqa: B008
        if "label" in batch and next(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return put(batch, mesh, *parts)

    with monkeypatch.context() as patch:
        patch.setattr(sharding, "put_batch", put)
        with pytest.raises(Preempted, match="saved at step 4"):
            train(tiny(changes=FIELDS), tmp_path)
    assert train(tiny(changes=FIELDS), tmp_path) == json.loads((uninterrupted[0] / "results.json").read_text())
    mesh = sharding.make_mesh(-1, 1)
    found, expected = (jax.device_get(restore_network(place, mesh)[1:]) for place in (tmp_path, uninterrupted[0]))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
