"""Pictures of what a block looks at, for the programs that draw them."""

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


def parse_position(numbers: list[str] | None) -> tuple[int, int, int] | None:
    """The value of --position."""
    if numbers is None:
        return None
    if len(numbers) != 3 or not all(number.strip().isdecimal() for number in numbers):
        raise InputError(f"--position={','.join(numbers)}: valid are three numbers, frame,row,column, counted from 0")
    return tuple(map(int, numbers))
