import numpy as np
import pytest

from experiments.benchmark import input as benchmark
from nl_jax.data.video.clips import random_place


def test_a_run_measures_every_contestant_that_is_asked_for():
    names = ("nl_jax", benchmark.PREPARED, "nl_jax, 4 of a decode")
    found = benchmark.measure(num_workers=1, rounds=3, clips=4, only=names)
    assert set(found) == set(names)
    assert all(row["clips_per_second"] > 0 for row in found.values())
    ours = found["nl_jax"]
    assert (ours["ratio"], ours["cpu_ratio"]) == (1, 1)
    assert ours["clips_per_second"] > 0 and ours["cpu_seconds"] > 0
    assert ours["decode"] + ours["resize"] + ours["rest"] == pytest.approx(1)
    assert min(ours["decode"], ours["resize"], ours["rest"]) > 0
    assert 0 < ours["wait"] <= 1


@pytest.mark.parametrize("name", ["decord, one thread", "torchcodec"])
def test_contestants_do_the_same(name, tmp_path):
    """All make the same frames at the same scale and place. Only the interpolation of samples differs."""
    module, make = benchmark.CONTESTANTS[name]
    if not benchmark._works(module):
        pytest.skip(f"{module} is not installed, or it cannot be loaded")
    (tmp_path / "class").mkdir()
    path = tmp_path / "class" / "video.mp4"
    benchmark.make_video(path)
    (theirs,) = make(str(path), np.random.default_rng(0))
    rng = np.random.default_rng(0)
    indices = benchmark.train_indices(300, 32, 2, rng)
    side = int(rng.integers(256, 321))
    height, width = (round(n * side / 256) for n in (256, 340))
    top, left = random_place(height, width, 224, rng)
    ours = benchmark.decode.read_frames(path, indices, short_side=side, crop=lambda h, w: (top, left, 224))
    ours = ours[:, :, ::-1] if rng.integers(2) else ours
    assert np.abs(ours.astype(int) - theirs).mean() < 4
