"""Checks the types and ranges of the fields of a config."""

import math
from collections.abc import Mapping
from operator import attrgetter

from ml_collections import ConfigDict

from nl_jax.errors import InputError

LARGEST = 2**31 - 1  # JAX counts steps in int32
RANGES = {
    "1 or more": lambda value: value >= 1,
    f"1 to {LARGEST}": lambda value: 1 <= value <= LARGEST,
    "0 or more": lambda value: value >= 0,
    "more than 0": lambda value: value > 0,
    "0 to 1": lambda value: 0 <= value <= 1,
    "0 up to, not including, 1": lambda value: 0 <= value < 1,
    # JAX keeps only the last 32 bits of a seed, so larger seeds would give the weights of other seeds.
    f"0 to {2**32 - 1}": lambda value: 0 <= value < 2**32,
}
STAGES = ("res2", "res3", "res4", "res5")
# The fields with several values, and the type of their values.
LISTS = {
    "model.blocks_per_stage": "integer",
    **{f"model.nonlocal_blocks.{stage}": "integer" for stage in STAGES},
    "model.remat": "text",
    "input.mean": "number",
    "input.std": "number",
    "optimizer.decay_at": "integer",
    "paper": "number",
    "data.short_side": "integer",
    "data.short_sides": "integer",
    "data.digits": "integer",
    "detector.keypoint_blocks": "integer",
    "detector.anchor_sides": "number",
    "detector.anchor_ratios": "number",
}
TYPES = {
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) in (int, float) and math.isfinite(value),
    "text": lambda value: type(value) is str,
}


def check_ranges(config: ConfigDict, numbers: Mapping[str, str]) -> None:
    """Checks that the numbers of a config are finite and in their ranges.

    Args:
      config: the config.
      numbers: {"optimizer.momentum": one of RANGES, ..}.

    Raises:
      InputError: a number is out of its range.
    """
    for name, valid in numbers.items():
        value = attrgetter(name)(config)
        if not (math.isfinite(value) and RANGES[valid](value)):
            raise InputError(f"{name}={value} is out of range; choose {valid}")


def check_lists(config: ConfigDict) -> None:
    """Checks the types of the values of the fields that hold several values.

    A config checks the type of a field, but not the types of the values in a tuple.

    Raises:
      InputError: a value has another type than LISTS says, or is no finite number.
    """
    for name, kind in LISTS.items():
        node, *path = config, *name.split(".")
        for part in path:
            node = node.get(part, ()) if isinstance(node, ConfigDict) else ()
        values = node if isinstance(node, tuple | list) else (node,)
        if wrong := [value for value in values if not TYPES[kind](value)]:
            raise InputError(f"{name}={node!r}: {wrong[0]!r} is no {kind}; give one {kind} or more, such as (a, b)")
