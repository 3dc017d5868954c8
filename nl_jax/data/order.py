"""The order of examples where every batch holds examples of one group, such as images of like shape."""

import functools

import grain
import numpy as np
from jaxtyping import Bool, Int


class GroupedOrder(grain.MapDataset):
    """The number of the example at place k of an endless run, batch after batch, every batch of one group.

    Every epoch draws all examples in another order. An example waits until enough of its group have been drawn to fill
    a batch; the last few of an epoch wait for the next one. So every example is seen once for every epoch, in batches
    that are all full, and place k depends on the seed, the batch size and k alone.

    Args:
        groups: (n,), the group of every example.
        batch_size: b.
        seed: of the order.
    """

    def __init__(self, groups: Int[np.ndarray, "n"], batch_size: int, seed: int):
        super().__init__()
        self._groups, self._batch_size, self._seed = groups, batch_size, seed
        self._sizes = np.bincount(groups)

    def __len__(self) -> int:
        return 2**60 // self._batch_size * self._batch_size  # endless; Grain adds to it

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        batch, row = divmod(index, self._batch_size)
        group, first = self._batch(batch)
        epoch, place = divmod(first + row, int(self._sizes[group]))
        return int(self._members(epoch, group)[place])

    def _batch(self, batch: int) -> tuple[int, int]:
        """The group of a batch, and how many of the group were drawn before it."""
        epoch = batch * self._batch_size // len(self._groups)  # earlier than it no batch of this number can be full
        while self._full_before(epoch + 1) <= batch:
            epoch += 1
        group, first = self._filled(epoch)
        place = batch - self._full_before(epoch)
        return int(group[place]), int(first[place])

    def _full_before(self, epoch: int) -> int:
        """How many batches are full when an epoch begins."""
        return sum(epoch * int(size) // self._batch_size for size in self._sizes)

    @functools.lru_cache(maxsize=4)  # noqa: B019 - one object for a run
    def _filled(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the batches that an epoch fills, in order, the group and how many of the group were drawn before them."""
        groups = self._groups[self._drawn(epoch)]
        of_group, drawn = np.empty(len(groups), np.int64), np.empty(len(groups), np.int64)
        for group, size in enumerate(self._sizes):
            places = np.flatnonzero(groups == group)
            of_group[places] = group
            drawn[places] = epoch * int(size) + 1 + np.arange(len(places))
        full = np.flatnonzero(drawn % self._batch_size == 0)
        return of_group[full], drawn[full] - self._batch_size

    @functools.lru_cache(maxsize=8)  # noqa: B019
    def _members(self, epoch: int, group: int) -> np.ndarray:
        """The examples of a group in the order of an epoch."""
        drawn = self._drawn(epoch)
        return drawn[self._groups[drawn] == group]

    @functools.lru_cache(maxsize=8)  # noqa: B019
    def _drawn(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self._seed, epoch)).permutation(len(self._groups))


def test_order(groups: Int[np.ndarray, "n"], batch_size: int) -> tuple[Int[np.ndarray, "m"], Bool[np.ndarray, "m"]]:
    """Every example once, group after group, with copies of the last one of a group to fill its last batch.

    Returns:
        (m,) numbers of examples, m a multiple of `batch_size`; (m,) False for the copies.
    """
    numbers, valid = [], []
    for group in np.unique(groups):
        places = np.flatnonzero(groups == group)
        spare = -len(places) % batch_size
        numbers += [places, np.repeat(places[-1:], spare)]
        valid += [np.ones(len(places), bool), np.zeros(spare, bool)]
    return np.concatenate(numbers), np.concatenate(valid)


test_order.__test__ = False  # for pytest, which collects functions by this prefix
