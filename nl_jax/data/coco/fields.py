"""Checks the fields of an annotation file's entries.

Each function except `is_number` and `valid_keypoints` raises `Bad` if the value is not valid.
"""

import sys

import numpy as np

from nl_jax.data.coco.problems import Bad, shown

_LARGEST = np.iinfo(np.int64).max


def entry(value: object) -> dict:
    """Returns the value if it is an object."""
    if not isinstance(value, dict):
        raise Bad("entry", shown(value), "an object")
    return value


def integer(record: dict, key: str, lowest: int | None = None) -> int:
    """Returns the integer of a key. 3.0 counts as 3. A text, a fraction, true and false are not valid.

    Args:
      record: the entry.
      key: name of the field.
      lowest: the lowest valid integer; None allows any integer.
    """
    valid = "an integer" if lowest is None else f"an integer from {lowest}"
    value = present(record, key, valid)
    if type(value) is float and value.is_integer():  # some programs write every number with a point
        value = int(value)
    if type(value) is not int or abs(value) > _LARGEST or (lowest is not None and value < lowest):
        raise Bad("entry", f"{key} {shown(value)}", valid)
    return value


def text(record: dict, key: str) -> str:
    """Returns the text of a key. It must not be empty, and it must be Unicode without the character 0."""
    value = present(record, key, "a text")
    if not isinstance(value, str) or not value:
        raise Bad("entry", f"{key} {shown(value)}", "a text that is not empty")
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise Bad("entry", f"{key} {shown(value)}", "a text of characters that a file can have")
    return value


def texts(record: dict, key: str) -> tuple[str, ...]:
    """Returns the list of texts of a key. It must have at least one."""
    value = present(record, key, "a list of texts")
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise Bad("entry", f"{key} {shown(value)}", "a list of texts")
    return tuple(value)


def present(record: dict, key: str, valid: str, kind: str = "entry") -> object:
    """Returns the value of a key. The key must exist.

    Args:
      record: the entry.
      key: name of the field.
      valid: the valid values, for the message.
      kind: kind of the fault, a key of `problems.KINDS`.
    """
    if key not in record:
        raise Bad(kind, f"no {key}", f"{key}: {valid}")
    return record[key]


def is_number(value: object) -> bool:
    """Returns whether the value is a number that is finite as a float."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def bbox(record: dict) -> tuple[float, float, float, float]:
    """Returns x, y, width and height of the field `bbox`."""
    valid = "4 finite numbers x, y, width, height, the last two above 0"
    value = present(record, "bbox", valid, "box")
    if not isinstance(value, list) or len(value) != 4 or not all(map(is_number, value)) or min(value[2:]) <= 0:
        raise Bad("box", f"bbox {shown(value)}", f"bbox: {valid}")
    x, y, width, height = map(float, value)
    return x, y, width, height


def valid_keypoints(count: int) -> str:
    """Returns the valid values of the field `keypoints`, for a message."""
    return f"keypoints: x, y and 0, 1 or 2 for each of {count}"


def keypoints(record: dict, count: int) -> np.ndarray:
    """Returns k keypoints, (k, 3): x, y and visibility, which is 0 (not labelled), 1 (hidden) or 2 (visible).

    Args:
      record: the entry.
      count: k.
    """
    valid = valid_keypoints(count)
    value = record["keypoints"]
    if not isinstance(value, list) or len(value) != 3 * count or not all(map(is_number, value)):
        length = f" of {len(value)} values" if isinstance(value, list) else ""
        raise Bad("keypoints", f"keypoints{length} {shown(value)}", valid)
    points = np.array(value, np.float64).reshape(count, 3)
    if not np.isin(points[:, 2], (0, 1, 2)).all():
        raise Bad("keypoints", f"visibility {shown(points[:, 2].tolist())}", valid)
    return points
