"""What a run asks of one split of its data."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

Batch = dict[str, np.ndarray]


@runtime_checkable
class Dataset(Protocol):
    """The examples of one split: videos, images, whatever a task learns from.

    An example is a dict of arrays. `index` () is its number, and `failed` (f,) holds the numbers of the examples that
    could not be decoded, filled up with -1. The other arrays are a matter of the task.

    Attributes:
      classes: their names in label order.
      names: of the examples, such as the paths of their files.
      ignored: files that lie among the examples and are not taken for any.
    """

    classes: tuple[str, ...]
    names: Sequence[str]
    ignored: Sequence[str]

    def __len__(self) -> int: ...

    def train_example(self, index: int, rng: np.random.Generator) -> Batch:
        """An example to train on; all that is random in it comes from `rng`."""
        ...

    def test_example(self, index: int) -> Batch:
        """An example to test with, the same at every call."""
        ...

    def failure_reason(self, index: int) -> str:
        """Why an example that was among the `failed` cannot be decoded."""
        ...

    def list_hash(self) -> str:
        """12 hex digits that name the list of examples and labels, wherever they lie."""
        ...


@runtime_checkable
class ClipDataset(Dataset, Protocol):
    """Labelled videos.

    A training example holds `video` uint8 (t,h,w,3) and `label`, a test example the same with all views (v,t,h,w,3).

    Attributes:
      multi_label: whether a label is (k,) of 0 and 1, for any number of classes in a clip, and no class number ().
      variable_size: whether the views of one video differ in height and width from those of another.
    """

    multi_label: bool
    variable_size: bool
