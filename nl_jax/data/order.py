"""The order of the examples of a dataset whose batches each hold one group, such as images of similar shape."""

import functools

import grain
import numpy as np
from jaxtyping import Bool, Int


class GroupedOrder(grain.MapDataset):
    """The number of the example at place k of an endless sequence.

    Each batch of the sequence has examples of one group.

    Each epoch draws all examples in another order. A drawn example waits until its group has enough drawn examples to
    fill a batch. The last examples of an epoch wait for the next epoch. So every batch is full, and the sequence has
    each example once for each epoch. The example at place k depends only on the seed, the batch size and k.

    Args:
      groups: (n,), the group of each example.
      batch_size: b.
      seed: seed of the order.
    """

    def __init__(self, groups: Int[np.ndarray, "n"], batch_size: int, seed: int):
        super().__init__()
        self._groups, self._batch_size, self._seed = groups, batch_size, seed
        self._sizes = np.bincount(groups)

    def __len__(self) -> int:
        return 2**60 // self._batch_size * self._batch_size  # endless in practice; Grain adds to this number

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        batch, row = divmod(index, self._batch_size)
        group, first = self._batch(batch)
        epoch, place = divmod(first + row, int(self._sizes[group]))
        return int(self._members(epoch, group)[place])

    def _batch(self, batch: int) -> tuple[int, int]:
        """Returns the group of a batch, and how many examples of the group were drawn before this batch."""
        epoch = batch * self._batch_size // len(self._groups)  # no earlier epoch can fill this batch
        while self._full_before(epoch + 1) <= batch:
            epoch += 1
        group, first = self._filled(epoch)
        place = batch - self._full_before(epoch)
        return int(group[place]), int(first[place])

    def _full_before(self, epoch: int) -> int:
        """Returns the number of batches that are full when an epoch begins."""
        return sum(epoch * int(size) // self._batch_size for size in self._sizes)

    @functools.lru_cache(maxsize=4)  # noqa: B019 - a run has one object
    def _filled(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns two arrays with one number for each batch that an epoch fills, in order.

        The first has the group of the batch. The second has the number of examples of this group before the batch.
        """
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
        """Returns the examples of a group, in the order of an epoch."""
        drawn = self._drawn(epoch)
        return drawn[self._groups[drawn] == group]

    @functools.lru_cache(maxsize=8)  # noqa: B019
    def _drawn(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self._seed, epoch)).permutation(len(self._groups))


def test_order(groups: Int[np.ndarray, "n"], batch_size: int) -> tuple[Int[np.ndarray, "m"], Bool[np.ndarray, "m"]]:
    """Returns every example once, group after group. Copies of a group's last example fill the group's last batch.

    Args:
      groups: (n,), the group of each example.
      batch_size: b.

    Returns:
      (m,), numbers of examples, where m is a multiple of `batch_size`.
      (m,), False for the copies, True for the others.
    """
    numbers, valid = [], []
    for group in np.unique(groups):
        places = np.flatnonzero(groups == group)
        spare = -len(places) % batch_size
        numbers += [places, np.repeat(places[-1:], spare)]
        valid += [np.ones(len(places), bool), np.zeros(spare, bool)]
    return np.concatenate(numbers), np.concatenate(valid)


test_order.__test__ = False  # pytest collects functions with the prefix test_
