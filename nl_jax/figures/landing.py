"""Counts of the places where arrows of attention land, on the embedded task. Its clips state the place of each thing.

Arrows start from two positions of a clip: the middle of the cue, and the middle of the digit with the tint of the cue.
The digit is relevant for the cue, and the cue for the digit, because nothing else gives the label.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax
import numpy as np
from jaxtyping import Float, Int

from nl_jax.data.embedded.long_range import CUE, GLYPH, LongRange, Shot
from nl_jax.figures import attention, panels
from nl_jax.models import NonLocalBlock

KINDS = ("relevant", "itself", "others", "background")


@dataclass
class Landing:
    """The places where arrows land, for one block and one kind of start. Each Counter counts by KINDS over all clips.

    Attributes:
      positive: arrows of positive weight.
      negative: arrows of negative weight.
      strongest: the strongest arrow of each clip.
      keys: all keys. The arrows of a block that knows nothing land in these proportions.
    """

    positive: Counter = field(default_factory=Counter)
    negative: Counter = field(default_factory=Counter)
    strongest: Counter = field(default_factory=Counter)
    keys: Counter = field(default_factory=Counter)


def measure(
    dataset: LongRange,
    inputs: Callable[[np.ndarray], Mapping[str, Float[jax.Array, "b t h w c"]]],
    blocks: Mapping[str, NonLocalBlock],
    clips: int,
    count: int = 20,
    batch_size: int = 50,
    on_batch: Callable[[int], None] = lambda clips: None,
) -> dict[tuple[str, str], Landing]:
    """Returns the places where arrows land, by (name of the block, "cue" or "digit" as the start).

    Args:
      dataset: the clips.
      inputs: a function from clips, uint8 (b,t,h,w,3), to the input of every block by name.
      blocks: the blocks by name.
      clips: number of clips, taken from the start of the dataset.
      count: number of arrows from a position. They lead to the keys with the largest |weight|.
      batch_size: number of clips that `inputs` gets at a time.
      on_batch: a function that is called with the number of clips so far.
    """
    found = {(block, thing): Landing() for block in blocks for thing in ("cue", "digit")}
    for start in range(0, clips, batch_size):
        indices = range(start, min(start + batch_size, clips))
        at = np.minimum(np.arange(start, start + batch_size), clips - 1)  # one shape, so XLA compiles once
        by_block = inputs(np.stack([dataset.train_example(int(index))["video"] for index in at]))
        for name, block in blocks.items():
            for place, index in enumerate(indices):
                shots, _ = dataset.compose(index)
                cue = next(shot for shot in shots if shot.kind == CUE)
                digit = next(shot for shot in shots if shot.tint == cue.tint and shot.kind != CUE)
                x = by_block[name][place : place + 1]
                for thing, asked, relevant in (("cue", cue, digit), ("digit", digit, cue)):
                    position = _middle(asked, x.shape[1:4], dataset)
                    seen = attention.attend_to(block, x, name, position)
                    owner = owners(shots, seen.weights.shape, dataset)
                    kinds = {-1: "background", shots.index(relevant): "relevant", shots.index(asked): "itself"}
                    _count(found[name, thing], seen.strongest(count), owner, kinds)
        on_batch(indices.stop)
    return found


def owners(shots: list[Shot], keys: tuple[int, int, int], dataset: LongRange) -> Int[np.ndarray, "T H W"]:
    """Returns the number of the shot whose square of pixels contains the middle of each key, and -1 for no shot.

    Args:
      shots: the shots of a clip.
      keys: the numbers of keys along time, height and width.
      dataset: the dataset of the clip.
    """
    times, rows, columns = keys
    y, x = ((np.arange(size) + 0.5) * dataset.side / size for size in (rows, columns))
    result = np.full(keys, -1)
    for key in range(times):
        frame = panels.frame_of(key, times, dataset.frames)
        for number, shot in enumerate(shots):
            if frame in shot.frames:
                top, left = shot.places[shot.frames.index(frame)]
                inside = ((y >= top) & (y < top + GLYPH))[:, None] & ((x >= left) & (x < left + GLYPH))
                result[key][inside] = number
    return result


def _middle(shot: Shot, grid: tuple[int, int, int], dataset: LongRange) -> tuple[int, int, int]:
    """Returns the position whose cell contains the middle of a shot, in the middle of its frames."""
    times, rows, columns = grid
    at = len(shot.frames) // 2
    top, left = shot.places[at]
    return (
        shot.frames[at] * times // dataset.frames,
        int((top + GLYPH / 2) * rows / dataset.side),
        int((left + GLYPH / 2) * columns / dataset.side),
    )


def _count(landing: Landing, strongest, owner, kinds: dict[int, str]) -> None:
    landing.keys.update(kinds.get(int(number), "others") for number in owner.ravel())
    for rank, (place, weight) in enumerate(strongest):
        kind = kinds.get(int(owner[place]), "others")
        (landing.positive if weight > 0 else landing.negative)[kind] += 1
        if rank == 0:
            landing.strongest[kind] += 1
