"""The checkpoints that are kept, and the files left by a killed save, a full disk and a failed write."""

import resource
import shutil
import time
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nl_jax.errors import InputError, TrainingError
from nl_jax.training.checkpoint import Checkpoints
from nl_jax.training.step import TrainState


def state(step):
    params = {"a/kernel": jnp.asarray(np.random.default_rng(step).normal(size=(256, 256)), jnp.float32)}
    statistics = {"a/mean": jnp.full(3, float(step))}
    return TrainState(jnp.asarray(step, jnp.int32), params, statistics, {"momentum": jax.tree.map(jnp.square, params)})


def steps_in(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


def save(workdir, steps, accuracies=None, **options):
    with Checkpoints(workdir, **options) as checkpoints:
        for step in steps:
            accuracy = (accuracies or {}).get(step)
            figure = None if accuracy is None else ("video_top1", accuracy)
            checkpoints.save(state(step), {"next_batch": step}, figure)


def assert_newest_is(workdir, step):
    with Checkpoints(workdir) as checkpoints:
        restored, data_state = checkpoints.restore(state(0))
    jax.tree.map(np.testing.assert_array_equal, restored, state(step))
    assert data_state == {"next_batch": step}


def test_the_newest_the_best_and_every_so_often_are_kept(tmp_path):
    save(tmp_path, range(1, 7), {3: 0.8, 6: 0.2}, keep=2, keep_every=4)
    assert steps_in(tmp_path) == [3, 4, 5, 6]
    save(tmp_path, range(7, 11), {9: 0.5}, keep=2, keep_every=4)  # the best of before is known after a restart
    assert steps_in(tmp_path) == [3, 4, 8, 9, 10]
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert (checkpoints.best(), checkpoints.latest()) == (3, 10)
    like = state(0)
    for best, step in ((True, 3), (False, 10)):
        params, statistics = checkpoints.restore_model(like.params, like.batch_stats, best=best)
        np.testing.assert_array_equal(params["a/kernel"], state(step).params["a/kernel"])
        np.testing.assert_array_equal(statistics["a/mean"], [step] * 3)


def test_no_best_without_a_validation(tmp_path):
    save(tmp_path, [1])
    like = state(0)
    with pytest.raises(InputError, match=r"no checkpoint in .* has been validated, so none is the best"):
        Checkpoints(tmp_path, read_only=True).restore_model(like.params, like.batch_stats, best=True)


def test_what_a_killed_save_left_is_no_checkpoint_and_is_cleared(tmp_path):
    save(tmp_path, [1, 2])
    left = tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "2", left)
    assert Checkpoints(tmp_path, read_only=True).latest() == 2 and left.exists()
    assert_newest_is(tmp_path, 2)
    save(tmp_path, [3])
    assert steps_in(tmp_path) == [2, 3] and not left.exists()


def test_a_disk_that_is_too_full_is_seen_before(tmp_path, monkeypatch):
    save(tmp_path, [1])
    usage = namedtuple("usage", "total used free")
    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 400_000, 400_000))
        with pytest.raises(TrainingError, match=r"0\.5 MB and 0\.4 MB are free; the checkpoint of step 1 is whole"):
            checkpoints.save(state(2), {"next_batch": 2})
    assert_newest_is(tmp_path, 1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax leaves a task behind
def test_a_write_that_fails_is_reported_and_the_last_good_checkpoint_stays(tmp_path):
    """The kernel refuses to let a file grow, as on a full disk."""
    save(tmp_path, [1])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(TrainingError, match=r"cannot be saved in .*: .*; the checkpoint of step 1 is whole"):
            with Checkpoints(tmp_path) as checkpoints:
                resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
                checkpoints.save(state(2), {"next_batch": 2})
                checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert steps_in(tmp_path) == [1]
    assert_newest_is(tmp_path, 1)
    for _ in range(30):  # the failed save clears its files in the background, and the next run does so too
        if not any(tmp_path.rglob("*.orbax-checkpoint-tmp")):
            break
        time.sleep(0.1)
    save(tmp_path, [2])
    assert_newest_is(tmp_path, 2)
