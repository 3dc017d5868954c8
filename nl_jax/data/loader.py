"""Makes batches of a dataset through Grain: shuffled, reproducible, in worker processes, and resumable at any batch.

`dataset` is a `nl_jax.data.dataset.Dataset`. One letter per axis: b examples of this process, v views, and t, h, w, c
of a video.
"""

import itertools
import os
import threading
import time
from collections.abc import Iterator, Sequence

import grain
import numpy as np
from absl import flags

from nl_jax.data.dataset import Batch
from nl_jax.data.order import GroupedOrder, test_order
from nl_jax.errors import InputError

PATIENCE = 5.0  # seconds in which worker processes must end
SHARED_MEMORY = "/dev/shm"
ENOUGH_SHARED_MEMORY = 4 * 2**30  # bytes; more needs no check; a container has 64 MB by default


class TrainBatches(Iterator[Batch]):
    """Endless training batches {"video": uint8 (b,t,h,w,3), "label": (b,), "index": (b,), "failed": (b,f)}.

    Clip k of the whole run depends only on the seed and on k. So a batch is the same for any number of worker processes
    and of hosts. The state of the iterator is one number, the number of the next batch.

    Args:
      dataset: the training examples.
      batch_size: clips in a batch of all hosts.
      seed: seed of the order and of every random crop and flip.
      rows: the places in a batch whose clips this host makes, in this order. By default it makes all places.
      num_workers: number of processes that decode. With 0, threads of this process decode.
      groups: (n,), the group of every example. With groups a batch holds examples of one group: see `GroupedOrder`.
      clips_per_decode: number of consecutive clips that show the same video, which is decoded once: see
        `Videos.train_examples`. An epoch has this number of clips of every video.

    Raises:
      InputError: `clips_per_decode` is below 1 or does not divide the batch. The first batch raises it if shared memory
        is too small for the batches of the workers.
    """

    def __init__(
        self,
        dataset,
        *,
        batch_size: int,
        seed: int,
        num_workers: int = 0,
        rows: Sequence[int] | None = None,
        groups: np.ndarray | None = None,
        clips_per_decode: int = 1,
    ):
        check_clips_per_decode(batch_size, clips_per_decode)
        if groups is None:
            order = grain.MapDataset.range(len(dataset)).seed(seed).shuffle().repeat()
        else:
            order = GroupedOrder(groups, batch_size, seed).seed(seed)
        if clips_per_decode == 1:
            share = _ShareOfProcess(order.random_map(_TrainClip(dataset)), batch_size, rows)
            self._batches = share.batch(share.count, drop_remainder=True)  # Grain cannot round an endless length up
        else:
            clips = order.random_map(_ClipsOfVideo(dataset, clips_per_decode))
            rows = list(range(batch_size) if rows is None else rows)
            videos = sorted({row // clips_per_decode for row in rows})
            share = _ShareOfProcess(clips, batch_size // clips_per_decode, videos)
            places = [videos.index(row // clips_per_decode) * clips_per_decode + row % clips_per_decode for row in rows]
            self._batches = share.batch(share.count, drop_remainder=True, batch_fn=_Flattened(places))
        self._num_workers = num_workers
        self._next_batch = 0
        self._iterator = None

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = _iterate(self._batches[self._next_batch :], self._num_workers)
        batch = next(self._iterator)
        self._next_batch += 1
        return batch

    def close(self) -> None:
        """Ends the worker processes.

        The next batch starts new ones. A worker that does not end in time is left alone.
        """
        if self._iterator is not None:
            ending = threading.Thread(target=self._iterator.close, daemon=True)
            ending.start()
            ending.join(PATIENCE)
            self._iterator = None  # frees the last batch of each worker in shared memory

    def get_state(self) -> dict[str, int]:
        """Returns {"next_batch": ..}, the position for a checkpoint."""
        return {"next_batch": self._next_batch}

    def set_state(self, state: dict[str, int]) -> None:
        """Moves forward or back to the batch at which `get_state` returned `state`."""
        self._next_batch = state["next_batch"]
        self._iterator = None


def check_clips_per_decode(batch_size: int, clips_per_decode: int) -> None:
    """Checks that a batch holds all clips of every decoded video.

    Args:
      batch_size: clips in a batch of all hosts.
      clips_per_decode: clips of one decoded video.

    Raises:
      InputError: `clips_per_decode` is below 1 or does not divide the batch.
    """
    if clips_per_decode < 1 or batch_size % clips_per_decode:
        raise InputError(
            f"data.clips_per_decode={clips_per_decode}: valid is a number from 1 that divides {batch_size}, the number "
            "of clips in a step or in one part of a step (accumulate_steps)"
        )


def test_batches(
    dataset,
    *,
    batch_size: int,
    num_workers: int = 0,
    rows: Sequence[int] | None = None,
    groups: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Returns batches {"video": uint8 (b,v,t,h,w,3), "label", "index", "failed", "valid": bool (b,)}.

    The batches have every video once, in order. Copies of the last video fill up the last batch, and `valid` is False
    for the copies.

    Args:
      dataset: the examples.
      batch_size: videos in a batch of all hosts.
      num_workers: as in `TrainBatches`.
      rows: as in `TrainBatches`.
      groups: (n,), the group of every example. With groups a batch holds examples of one group. The groups follow one
        another, and copies fill up the last batch of each group.

    Raises:
      InputError: shared memory is too small for the batches of the workers.
    """
    groups = np.zeros(len(dataset), int) if groups is None else groups
    numbers, valid = test_order(groups, batch_size)
    views = grain.MapDataset.range(len(numbers)).map(_TestViews(dataset, numbers, valid))
    # The views of one video can be hundreds of megabytes, so few are made in advance.
    share = _ShareOfProcess(views, batch_size, rows)
    return _iterate(share.batch(share.count, drop_remainder=True), num_workers, ahead=1)


test_batches.__test__ = False  # pytest collects functions with the prefix test_


def _iterate(batches: grain.MapDataset, num_workers: int, ahead: int = 2) -> Iterator[Batch]:
    if not num_workers:  # threads decode while the main thread computes
        return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=ahead)))
    _check_shared_memory(batches, num_workers)
    # A batch of video can be hundreds of megabytes: each worker makes one batch while one finished batch waits.
    batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    if not flags.FLAGS.is_parsed():
        # Grain's worker processes read absl flags, which a notebook or a test has not parsed.
        flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=1)
    return iter(batches.mp_prefetch(options, worker_init_fn=_end_with_parent))


def _check_shared_memory(batches: grain.MapDataset, num_workers: int) -> None:
    """Raises InputError if /dev/shm, through which workers pass batches, is too small: SIGBUS would kill them."""
    try:
        disk = os.statvfs(SHARED_MEMORY)
    except OSError:  # this system has no /dev/shm
        return
    free = disk.f_bavail * disk.f_frsize
    if free > ENOUGH_SHARED_MEMORY:
        return
    batch = sum(array.nbytes for array in batches[0].values())
    needed = batch * (2 * num_workers + 1)  # each worker makes one and keeps one; the step uses one
    if needed > free:
        raise InputError(
            f"shared memory ({SHARED_MEMORY}) has {free / 1e6:.0f} MB free, and {num_workers} workers need "
            f"{needed / 1e6:.0f} MB for batches of {batch / 1e6:.1f} MB; give the container more (docker run "
            f"--shm-size={needed * 2 // 2**20 + 64}m, or an emptyDir of medium Memory in Kubernetes), or set "
            "config.num_workers=0, which decodes in threads"
        )


def _end_with_parent(index: int, count: int) -> None:
    """Ends a worker when its parent is killed.

    Otherwise the worker would wait for ever, with its batch in shared memory.
    """
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _TrainClip(grain.transforms.RandomMap):
    def __init__(self, dataset):
        self.dataset = dataset

    def random_map(self, index: int, rng: np.random.Generator) -> Batch:
        return self.dataset.train_example(index, rng)


class _ClipsOfVideo(grain.transforms.RandomMap):
    """All clips of one decoded video, as a list."""

    def __init__(self, dataset, count: int):
        self.dataset, self._count = dataset, count

    def random_map(self, index: int, rng: np.random.Generator) -> list[Batch]:
        return self.dataset.train_examples(index, rng, self._count)


class _Flattened:
    """A function from lists of clips to a batch: it joins the lists and takes the clips at `places`."""

    def __init__(self, places: Sequence[int]):
        self._places = places

    def __call__(self, videos: Sequence[list[Batch]]) -> Batch:
        clips = list(itertools.chain(*videos))
        return {name: np.stack([clips[place][name] for place in self._places]) for name in clips[0]}


class _TestViews(grain.transforms.Map):
    def __init__(self, dataset, numbers: np.ndarray, valid: np.ndarray):
        self.dataset, self._numbers, self._valid = dataset, numbers, valid

    def map(self, index: int) -> Batch:
        return self.dataset.test_example(int(self._numbers[index])) | {"valid": np.bool_(self._valid[index])}


class _ShareOfProcess(grain.MapDataset):
    """The elements at `rows` of every `batch_size` elements."""

    def __init__(self, parent: grain.MapDataset, batch_size: int, rows: Sequence[int] | None):
        super().__init__(parent)
        self._batch_size, self._rows = batch_size, range(batch_size) if rows is None else rows
        self.count = len(self._rows)

    def __len__(self) -> int:
        return len(self._parent) // self._batch_size * self.count

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        batch, row = divmod(index, self.count)
        return self._parent[batch * self._batch_size + self._rows[row]]
