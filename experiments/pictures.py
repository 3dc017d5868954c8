"""Draws pictures of the attention of a non-local block."""

import math

from nl_jax.errors import InputError
from nl_jax.figures import attention, moving
from nl_jax.places import Place


def draw(video, found: attention.Attention, stem: Place, ending: str, count: int, title: str) -> list[Place]:
    """Writes pictures of an attention map to STEM_POSITION_KIND.ENDING.

    Args:
      video: the clip, uint8 (t,h,w,3).
      found: the attention of a position, or the mean over all positions.
      stem: STEM, the beginning of the paths.
      ending: ENDING, such as png for pictures and gif for a moving picture.
      count: number of arrows.
      title: title of the pictures.

    Returns:
      The paths of the pictures.
    """
    at = "mean" if found.position is None else "-".join(map(str, found.position))
    if f".{ending}" in moving.ENDINGS:
        paths = [stem.with_name(f"{stem.name}_{at}.{ending}")]
        moving.save(moving.draw_frames(video, found, count, title), paths[0])
    else:
        pictures = {"heat": attention.draw_heat(video, found, title)}
        if found.position is not None:
            pictures["arrows"] = attention.draw_arrows(video, found, count, title)
        paths = [stem.with_name(f"{stem.name}_{at}_{kind}.{ending}") for kind in pictures]
        for path, figure in zip(paths, pictures.values(), strict=True):
            attention.save(figure, path)
    return paths


def parse_numbers(flag: str, given: list[str] | None, names: str, kind: type = int) -> tuple | None:
    """Returns the numbers of a flag such as --position; None if the flag is not given.

    Args:
      flag: name of the flag.
      given: its value.
      names: names of the numbers, separated by commas, such as "row,column".
      kind: type of the numbers.

    Raises:
      InputError: the flag does not have one number from 0 for each name.
    """
    if given is None:
        return None
    try:
        numbers = tuple(map(kind, given))
        if len(numbers) == len(names.split(",")) and all(0 <= number < math.inf for number in numbers):
            return numbers
    except ValueError:
        pass
    counted = ", counted from 0" if kind is int else ""
    raise InputError(f"--{flag}={','.join(given)}: give {len(names.split(','))} numbers, {names}{counted}")
