import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from nl_jax.data import loader
from nl_jax.data.embedded.long_range import LongRange
from nl_jax.data.loader import TrainBatches, test_batches
from nl_jax.errors import InputError


class Numbers:
    """A dataset of 7 numbered videos whose clips carry a random draw."""

    def __len__(self):
        return 7

    def train_example(self, index, rng):
        return {"video": rng.integers(256, size=(1, 2, 2, 3), dtype=np.uint8), "index": np.int32(index)}

    def train_examples(self, index, rng, count):
        return [self.train_example(index, rng) for _ in range(count)]

    def test_example(self, index):
        return {"video": np.full((2, 1, 2, 2, 3), index, np.uint8), "index": np.int32(index)}


def take(batches, count):
    return [next(batches) for _ in range(count)]


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for name in x:
            np.testing.assert_array_equal(x[name], y[name])


def test_every_epoch_holds_every_video_once_in_another_order():
    indices = np.concatenate([b["index"] for b in take(TrainBatches(Numbers(), batch_size=7, seed=0), 3)])
    epochs = indices.reshape(3, 7)
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_clips_of_later_epochs_are_drawn_anew():
    batches = take(TrainBatches(Numbers(), batch_size=7, seed=0), 2)
    first, second = ({int(i): v for i, v in zip(b["index"], b["video"], strict=True)} for b in batches)
    assert any((first[i] != second[i]).any() for i in range(7))


def test_the_seed_decides():
    first, again, other = (take(TrainBatches(Numbers(), batch_size=4, seed=seed), 2) for seed in (1, 1, 2))
    assert_same(first, again)
    assert any((a["index"] != b["index"]).any() for a, b in zip(first, other, strict=True))


def test_state_resumes_at_the_very_next_batch():
    batches = TrainBatches(Numbers(), batch_size=3, seed=0)
    take(batches, 4)
    resumed = TrainBatches(Numbers(), batch_size=3, seed=0)
    resumed.set_state(batches.get_state())
    assert_same(take(resumed, 3), take(batches, 3))


@pytest.mark.parametrize("clips_per_decode", [1, 2])
def test_a_batch_may_be_one_video(clips_per_decode):
    options = {"batch_size": clips_per_decode, "clips_per_decode": clips_per_decode}
    batches = take(TrainBatches(Numbers(), seed=0, **options), 7)
    assert sorted(int(batch["index"][0]) for batch in batches) == list(range(7))


def test_worker_processes_change_nothing():
    dataset = LongRange("train", size=50)
    expected = take(TrainBatches(dataset, batch_size=4, seed=3), 5)
    for workers in (1, 2):
        assert_same(take(TrainBatches(dataset, batch_size=4, seed=3, num_workers=workers), 5), expected)


def test_an_epoch_has_several_clips_of_each_decoded_video_in_a_row():
    batches = take(TrainBatches(Numbers(), batch_size=6, seed=0, clips_per_decode=3), 7)  # two epochs of 7 x 3 clips
    index = np.concatenate([batch["index"] for batch in batches]).reshape(14, 3)
    assert (index == index[:, :1]).all()
    assert all(sorted(epoch) == list(range(7)) for epoch in index[:, 0].reshape(2, 7))
    clips = np.concatenate([batch["video"] for batch in batches]).reshape(42, -1)
    assert len(np.unique(clips, axis=0)) == 42, "no two clips are equal"
    plain = np.concatenate([batch["index"] for batch in take(TrainBatches(Numbers(), batch_size=7, seed=0), 2)])
    np.testing.assert_array_equal(index[:, 0], plain, err_msg="videos come in the same order")


def test_clips_of_one_decoding_stay_functions_of_their_number():
    """Holds for runs resumed at any batch, in worker processes, and for hosts with a part of a video's clips."""
    options = {"batch_size": 6, "seed": 2, "clips_per_decode": 3}
    expected = take(TrainBatches(Numbers(), **options), 4)
    resumed = TrainBatches(Numbers(), **options)
    resumed.set_state({"next_batch": 2})
    assert_same(take(resumed, 2), expected[2:])
    for rows in ((0, 1, 2), (3, 4), (5, 1)):
        found = take(TrainBatches(Numbers(), rows=rows, **options), 4)
        assert_same(found, [{name: array[list(rows)] for name, array in batch.items()} for batch in expected])


@pytest.mark.parametrize("count", [0, 4])
def test_clips_of_one_decoding_that_do_not_fill_a_batch_are_refused(count):
    with pytest.raises(InputError, match=rf"data.clips_per_decode={count}: valid is .* divides 6,"):
        TrainBatches(Numbers(), batch_size=6, seed=0, clips_per_decode=count)


def test_processes_share_the_same_global_batches():
    whole = take(TrainBatches(Numbers(), batch_size=4, seed=0), 3)
    shares = [take(TrainBatches(Numbers(), batch_size=4, seed=0, rows=rows), 3) for rows in ((0, 2), (1, 3))]
    joined = [
        {name: np.stack([a[name], b[name]], axis=1).reshape(4, *a[name].shape[1:]) for name in a}
        for a, b in zip(*shares, strict=True)
    ]
    assert_same(joined, whole)


@pytest.mark.parametrize("shares", [[None], [(0, 1), (2, 3)]])
def test_test_batches_hold_every_video_once_and_mark_what_fills_up(shares):
    shares = [list(test_batches(Numbers(), batch_size=4, rows=rows)) for rows in shares]
    index = np.concatenate([b["index"] for batch in zip(*shares, strict=True) for b in batch])
    valid = np.concatenate([b["valid"] for batch in zip(*shares, strict=True) for b in batch])
    np.testing.assert_array_equal(index, [0, 1, 2, 3, 4, 5, 6, 6])
    np.testing.assert_array_equal(valid, [True] * 7 + [False])


def test_too_little_shared_memory_is_said_before_workers_start(monkeypatch):
    """A container has 64 MB. SIGBUS kills workers that find no room in it."""
    free = SimpleNamespace(f_bavail=10, f_frsize=10)  # 100 bytes; a batch has 4 x (12 + 4)
    monkeypatch.setattr(loader.os, "statvfs", lambda path: free)
    for make in (
        lambda: TrainBatches(Numbers(), batch_size=4, seed=0, num_workers=1),
        lambda: test_batches(Numbers(), batch_size=4, num_workers=1),
    ):
        with pytest.raises(
            InputError, match=r"shared memory \(/dev/shm\) has 0 MB free, and 1 workers need .*--shm-size"
        ):
            next(make())
    take(TrainBatches(Numbers(), batch_size=4, seed=0), 1)  # threads need no shared memory
    monkeypatch.setattr(loader.os, "statvfs", lambda path: SimpleNamespace(f_bavail=1000, f_frsize=10))
    batches = TrainBatches(Numbers(), batch_size=4, seed=0, num_workers=1)
    monkeypatch.setattr(loader.grain, "MultiprocessingOptions", start)
    with pytest.raises(Started):
        next(batches)


class Started(Exception):
    """Raised instead of starting workers."""


def start(**options):
    raise Started


SMALL = """
from nl_jax.data.loader import TrainBatches
from nl_jax.data.embedded.long_range import LongRange
if __name__ == "__main__":
    try:
        batches = TrainBatches(LongRange("train", size=50), batch_size=32, seed=0, num_workers=2)
        for _ in range(6):
            next(batches)
        print("batches")
        batches.close()
    except ValueError as error:
        print(error)
"""


@pytest.mark.parametrize("megabytes", [2, 64])
def test_a_shared_memory_that_is_really_small(megabytes, tmp_path):
    """The test mounts its own /dev/shm. It is skipped where the system does not allow this."""
    (tmp_path / "small.py").write_text(SMALL)
    make = f"mount -t tmpfs -o size={megabytes}m tmpfs /dev/shm"
    if subprocess.run(["unshare", "--mount", "sh", "-c", make], capture_output=True).returncode:
        pytest.skip("no mount of one's own")
    command = ["unshare", "--mount", "sh", "-c", f"{make} && exec {sys.executable} {tmp_path / 'small.py'}"]
    found = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.getcwd()}, timeout=200
    )
    assert found.returncode == 0, found.stderr
    assert ("--shm-size" if megabytes == 2 else "batches") in found.stdout
