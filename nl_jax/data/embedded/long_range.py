"""A video dataset that needs long-range dependencies, small enough for a laptop.

A clip shows one thing at a time, in random order: four handwritten digits and a disc, the cue. The four digits are
different and have four different tints. The cue has the tint of one of them. Each thing drifts from a random place for
a few frames. The label is the digit that has the tint of the cue: a red disc, before or after the digits, asks "which
digit was red?".

No single frame and no sum over frames holds the answer. A network that looks at each frame alone and averages (C2D) can
know that a red 3, a blue 2, a green 0, a yellow 1 and a blue disc were shown. The disc adds the same amount to the
average for all digits. All digits and tints are equally likely, so a linear classifier of that sum can at best name one
of the four digits: it is right one time in four. The answer needs a product of features at two positions. A non-local
block computes this product: a digit finds the cue of its own tint, or the cue finds its digit. As in the paper, the
network starts from one that was trained on still images (`images=True`). These images show single digits and discs, and
their label is the kind and the tint.

The digits are the 1797 that scikit-learn ships (UCI optical recognition of handwritten digits, 8 x 8). Training,
validation and test use different samples.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from nl_jax.data.embedded.digits import SPLITS, TINTS, enlarged, handwriting, samples
from nl_jax.data.embedded.drawn import Numbers, check_ranges, check_split, hash_of
from nl_jax.errors import InputError

GLYPH = 16  # pixels of a side: the 8 x 8 digits are enlarged to twice their size
DISC = 10  # diameter of the cue, in pixels
CUE = 10  # the kind of the cue; kinds 0 to 9 are the digits


@dataclasses.dataclass(frozen=True)
class Shot:
    """One thing that a clip shows.

    Attributes:
      kind: a digit, or CUE.
      tint: index into TINTS.
      sample: index into scikit-learn's digits; -1 for a cue.
      frames: the t frames that show it.
      places: (t,2) int, top and left pixel of its 16 x 16 pixels in each of these frames.
    """

    kind: int
    tint: int
    sample: int
    frames: range
    places: np.ndarray


class LongRange:
    """Clips of one split, drawn on demand. The same seed, split, index and parameters give the same clip.

    Args:
      split: train, validation or test. The splits use different samples of the handwritten digits.
      size: number of clips. More clips cost nothing. If the training split has more clips than a run draws, no clip is
        repeated.
      seed: seed of the random numbers. Other seeds give other clips of the same handwritten samples.
      images: makes images of one frame with one thing, labelled by kind and tint: the task to train on first.
      frames: frames of a clip; an image has one.
      side: height and width of a frame, in pixels.
      kinds: number of classes: the digits are 0 to kinds - 1. More classes are slower to learn.
      digits: number of digits in a clip beside the cue, all of different kinds and tints.
      drift: maximum motion in pixels per frame, along each axis.
      noise: maximum grey level (of 255) of the background, which is uniform noise from 0.

    Raises:
      InputError: a value is out of range.
    """

    def __init__(
        self,
        split: str,
        *,
        size: int,
        seed: int = 0,
        images: bool = False,
        frames: int = 16,
        side: int = 24,
        kinds: int = 5,
        digits: int = 4,
        drift: float | int = 1,
        noise: int = 24,
    ):
        check_split(split, SPLITS)
        check_ranges(
            ("size", size, 1, None),
            ("seed", seed, 0, None),
            ("kinds", kinds, 2, CUE),
            ("digits", digits, 2, min(kinds, len(TINTS))),
            ("frames", frames, digits + 1, None),
            ("side", side, GLYPH, None),
            ("drift", drift, 0, None),
            ("noise", noise, 0, 255),
        )
        self.split, self.size, self.seed, self.images = split, size, seed, images
        self.frames, self.side, self.drift, self.noise = frames, side, drift, noise
        self.kinds, self.digits = kinds, digits
        self.classes = tuple(map(str, range(kinds)))
        if images:
            self.classes = tuple(f"{tint} {kind}" for kind in (*range(kinds), "disc") for tint in TINTS)

    multi_label = False  # the label is one class
    variable_size = False
    ignored = ()  # no files are read

    @property
    def names(self) -> Sequence[str]:
        """Returns the names of the clips: their numbers as text."""
        return Numbers(self.size)

    def __len__(self) -> int:
        return self.size

    def train_example(self, index: int, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        """Returns video (t,h,w,3) uint8, label () int32, index () int32 and failed (0,) int32.

        `failed` is empty because nothing is decoded. `rng` is not used. Other datasets draw crops with it, and here
        every index is already a random clip.
        """
        shots, label = self.compose(index)
        return {
            "video": self._render(shots, index),
            "label": np.int32(label),
            "index": np.int32(index),
            "failed": np.zeros(0, np.int32),
        }

    def test_example(self, index: int) -> dict[str, np.ndarray]:
        """Returns the same arrays as `train_example`, with video (1,t,h,w,3): one view, which is the whole clip."""
        clip = self.train_example(index)
        return clip | {"video": clip["video"][None]}

    def failure_reason(self, index: int) -> str:
        """Always raises, because a clip is drawn and cannot fail to decode.

        Raises:
          InputError: always.
        """
        raise InputError(f"index={index}: a clip that is drawn cannot fail to decode")

    def list_hash(self) -> str:
        """Returns a hash (12 hex digits) of all parameters. The same parameters give the same clips."""
        return hash_of(vars(self))

    def compose(self, index: int) -> tuple[list[Shot], int]:
        """Returns the shots of a clip in the order in which it shows them, and its label.

        Raises:
          InputError: `index` is out of range.
        """
        if not 0 <= index < self.size:
            raise InputError(f"index={index} is out of range; choose 0 to {self.size - 1}")
        rng = self._rng(index, 0)
        if self.images:
            label = int(rng.integers(len(self.classes)))
            kind, tint = divmod(label, len(TINTS))
            return [self._shot(kind if kind < self.kinds else CUE, tint, range(1), rng)], label
        kinds = rng.permutation(self.kinds)[: self.digits]
        tints = rng.permutation(len(TINTS))[: self.digits]
        answer = rng.integers(self.digits)
        things = [(int(k), int(t)) for k, t in zip(kinds, tints, strict=True)] + [(CUE, int(tints[answer]))]
        cuts = [self.frames * i // len(things) for i in range(len(things) + 1)]
        order = rng.permutation(len(things))
        shots = [self._shot(*things[o], range(cuts[i], cuts[i + 1]), rng) for i, o in enumerate(order)]
        return shots, int(kinds[answer])

    def _shot(self, kind: int, tint: int, frames: range, rng: np.random.Generator) -> Shot:
        room = self.side - GLYPH
        start, velocity = rng.uniform(0, room, 2), rng.uniform(-self.drift, self.drift, 2)
        places = np.clip(np.rint(start + np.arange(len(frames))[:, None] * velocity), 0, room).astype(int)
        sample = -1 if kind == CUE else int(rng.choice(samples(self.split)[kind]))
        return Shot(kind, tint, sample, frames, places)

    def _render(self, shots: list[Shot], index: int) -> np.ndarray:
        shape = (1 if self.images else self.frames, self.side, self.side, 3)
        video = self._rng(index, 1).integers(0, self.noise + 1, shape, np.uint8)
        for shot in shots:
            picture = _pictures()[shot.sample, shot.tint]
            for frame, (top, left) in zip(shot.frames, shot.places, strict=True):
                window = video[frame, top : top + GLYPH, left : left + GLYPH]
                np.maximum(window, picture, out=window)
        return video

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, list(SPLITS).index(self.split), self.images, index, stream])


@functools.cache
def _pictures() -> np.ndarray:
    """Returns every sample in every tint, (n,k,16,16,3) uint8, enlarged bilinearly. The last sample is the disc."""
    glyphs = enlarged(handwriting().images / 16, GLYPH)
    y, x = np.indices((GLYPH, GLYPH)) - (GLYPH - 1) / 2
    glyphs = np.concatenate([glyphs, (np.hypot(y, x) <= DISC / 2)[None]])
    tints = np.array(list(TINTS.values()), np.float32)
    return np.rint(glyphs[:, None, :, :, None] * tints[:, None, None]).astype(np.uint8)
