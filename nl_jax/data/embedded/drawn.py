"""Parts that the embedded tasks share: names of examples that are drawn on demand, checks of parameters, a hash."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import SupportsIndex

from nl_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Numbers(Sequence):
    """The texts "0", "1", .. of the numbers below `count`. Each text is made on demand.

    Attributes:
      count: number of texts.
    """

    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: SupportsIndex) -> str:
        return str(range(self.count)[index])


def hash_of(parameters: Mapping[str, object]) -> str:
    """Returns a hash (12 hex digits) of parameters. Their order does not change it."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:12]


def check_split(split: str, splits: Iterable[str]) -> None:
    """Checks the name of a split.

    Raises:
      InputError: `split` is not one of `splits`.
    """
    if split not in splits:
        raise InputError(f"split={split!r} is unknown; choose one of {', '.join(splits)}")


def check_ranges(*parameters: tuple[str, float | int, float | int, float | int | None]) -> None:
    """Checks that parameters are in their ranges.

    Args:
      parameters: (name, value, lowest, highest or None) of each parameter.

    Raises:
      InputError: a value is out of its range.
    """
    for name, value, low, high in parameters:
        if value < low or (high is not None and value > high):
            valid = f"{low} or more" if high is None else f"{low} to {high}"
            raise InputError(f"{name}={value} is out of range; choose {valid}")
