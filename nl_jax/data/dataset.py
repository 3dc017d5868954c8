"""The interface of one split of a dataset."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32

Batch = dict[str, np.ndarray]
MAX_FAILED = 15  # a training example fails after this many replacements


@runtime_checkable
class Dataset(Protocol):
    """The examples of one split, such as videos or images.

    An example is a dict of arrays. `index` () is the number of the example. `failed` (f,) holds the numbers of examples
    that could not be decoded, padded with -1 (see `padded_failed`). The task of a run defines the other arrays.

    Attributes:
      classes: class names in label order.
      names: names of the examples, such as the paths of their files.
      ignored: files in the dataset's folder that are not examples.
    """

    classes: tuple[str, ...]
    names: Sequence[str]
    ignored: Sequence[str]

    def __len__(self) -> int: ...

    def train_example(self, index: int, rng: np.random.Generator) -> Batch:
        """Returns a training example. All random choices come from `rng`."""
        ...

    def test_example(self, index: int) -> Batch:
        """Returns a test example. It is the same at every call."""
        ...

    def failure_reason(self, index: int) -> str:
        """Returns the reason why an example of `failed` cannot be decoded."""
        ...

    def list_hash(self) -> str:
        """Returns a hash (12 hex digits) of the list of examples and labels. It does not depend on their folder."""
        ...


@runtime_checkable
class ClipDataset(Dataset, Protocol):
    """Labelled videos.

    A training example holds `video` uint8 (t,h,w,3) and `label`. A test example holds `label` and all v views of a
    video, `video` uint8 (v,t,h,w,3).

    Attributes:
      multi_label: whether a clip can have several classes. If true, a label is (k,) of 0 and 1, one value for each
        class. Otherwise a label is the number of one class, ().
      variable_size: whether the views of different videos differ in height and width.
    """

    multi_label: bool
    variable_size: bool


def padded_failed(failed: Sequence[int]) -> Int32[np.ndarray, "f"]:
    """Returns the numbers of examples that could not be decoded, padded with -1 to f = MAX_FAILED numbers."""
    padded = np.full(MAX_FAILED, -1, np.int32)
    padded[: len(failed)] = failed
    return padded
