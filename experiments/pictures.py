"""Pictures of what a block looks at, for the programs that draw them."""

import math

from nl_jax.errors import InputError
from nl_jax.figures import attention, moving
from nl_jax.places import Place


def draw(video, found: attention.Attention, stem: Place, ending: str, count: int, title: str) -> list[Place]:
    """Writes the pictures of what was found, as STEM_POSITION_KIND.ENDING, and returns where they are."""
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
    """The value of a flag that takes as many numbers as it has names, such as --position."""
    if given is None:
        return None
    try:
        numbers = tuple(map(kind, given))
        if len(numbers) == len(names.split(",")) and all(0 <= number < math.inf for number in numbers):
            return numbers
    except ValueError:
        pass
    counted = ", counted from 0" if kind is int else ""
    raise InputError(f"--{flag}={','.join(given)}: valid are {len(names.split(','))} numbers, {names}{counted}")
