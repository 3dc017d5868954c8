"""A video task whose answer lies in two places far apart in space and time, small enough for a laptop.

A clip shows one thing at a time. Four handwritten digits, each of another kind and another tint, and a disc, the cue,
take turns in random order; each drifts at a random place for a few frames. The label is the digit whose tint is the
cue's: "which digit was red?" after, or before, a red disc.

No frame holds the answer, and neither does any sum over frames. A network that looks at frames one by one and
averages (C2D) can know that a red 3, a blue 2, a green 0, a yellow 1 and a blue disc were there, but the disc adds the
same to the average whatever the digits are. All kinds and tints are alike, so the best that a linear classifier of
such a sum can do is to name any of the four digits shown: right one time in four. The answer needs a product of what
was seen at two positions, and that is what a non-local block computes: a digit finds the cue of its own tint, or the
cue its digit. As in the paper, such a network starts from one trained on still images (`images=True`): single digits
and discs, to be told by kind and tint.

The digits are the 1797 that scikit-learn ships (UCI optical recognition of handwritten digits, 8 x 8). Training,
validation and test use different ones.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np

from nl_jax.errors import InputError

TINTS = {"red": (255, 60, 60), "green": (70, 230, 70), "blue": (80, 120, 255), "yellow": (240, 220, 50)}
SPLITS = {"train": (0.0, 0.7), "validation": (0.7, 0.85), "test": (0.85, 1.0)}  # shares of each digit's samples
GLYPH = 16  # pixels on a side: digits are enlarged twice
DISC = 10  # diameter of the cue
CUE = 10  # the kind of thing that is not a digit


@dataclasses.dataclass(frozen=True)
class Shot:
    """One thing on screen: what it is, and the frames and places (top, left of its 16 x 16 pixels) it is shown at.

    kind is a digit or CUE, tint counts into TINTS, sample into scikit-learn's digits (-1 for a cue).
    """

    kind: int
    tint: int
    sample: int
    frames: range
    places: np.ndarray


class LongRange:
    """Clips of one split, made when they are asked for: the same for the same seed, split, index and parameters.

    Args:
      split: train, validation or test; each has its own handwriting.
      size: how many clips there are. Making one more costs nothing: a training split larger than the number of clips
        a run draws never repeats itself.
      seed: another seed, other clips from the same handwriting.
      images: one thing on one frame, to be told by kind and tint; the task to train on first.
      frames: of a clip; an image has one.
      side: of a frame, in pixels.
      kinds: the digits there are, 0 to kinds - 1; the classes. More are slower to learn.
      digits: how many of them a clip shows next to the cue, each of another kind and tint.
      drift: largest motion, in pixels per frame along each axis.
      noise: the background is uniform noise of grey levels from 0 to this, of 255.

    Raises:
      InputError: for a value that no clip can be made with.
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
        if split not in SPLITS:
            raise InputError(f"split={split!r} is unknown; choose one of {', '.join(SPLITS)}")
        for name, value, low, high in (
            ("size", size, 1, None),
            ("seed", seed, 0, None),
            ("kinds", kinds, 2, CUE),
            ("digits", digits, 2, min(kinds, len(TINTS))),
            ("frames", frames, digits + 1, None),
            ("side", side, GLYPH, None),
            ("drift", drift, 0, None),
            ("noise", noise, 0, 255),
        ):
            if value < low or (high is not None and value > high):
                raise InputError(
                    f"{name}={value} is out of range; choose {low} {'or more' if high is None else f'to {high}'}"
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
        """The clips' numbers as text."""
        return Numbers(self.size)

    def __len__(self) -> int:
        return self.size

    def train_example(self, index: int, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        """video (t,h,w,3) uint8, label, index and failed: empty, since no decoder can fail here.

        `rng` is what other data sets draw their crops with; here every index is already another draw.
        """
        shots, label = self.compose(index)
        return {
            "video": self._render(shots, index),
            "label": np.int32(label),
            "index": np.int32(index),
            "failed": np.zeros(0, np.int32),
        }

    def test_example(self, index: int) -> dict[str, np.ndarray]:
        """The same with video (v,t,h,w,3): one view, the whole clip."""
        clip = self.train_example(index)
        return clip | {"video": clip["video"][None]}

    def failure_reason(self, index: int) -> str:
        """Never asked: a clip that is drawn cannot fail."""
        raise InputError(f"index={index}: a clip that is drawn cannot fail to decode")

    def list_hash(self) -> str:
        """12 hex digits that name these clips: equal when split, parameters and the list's length are."""
        return hashlib.sha256(json.dumps(vars(self), sort_keys=True).encode()).hexdigest()[:12]

    def compose(self, index: int) -> tuple[list[Shot], int]:
        """The shots of a clip in the order they are shown, and its label."""
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


@dataclasses.dataclass(frozen=True)
class Numbers(Sequence):
    """ "0", "1", .. up to `count`, none of them made before it is asked for."""

    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: SupportsIndex) -> str:
        return str(range(self.count)[index])


@functools.cache
def handwriting():
    """scikit-learn's digits: `images` (n,8,8) from 0 to 16, `target` (n,) the digit."""
    from sklearn.datasets import load_digits  # a second that no other data needs

    return load_digits()


@functools.cache
def samples(split: str) -> tuple[np.ndarray, ...]:
    """For every digit, which of scikit-learn's samples the split may show."""
    target = handwriting().target
    shuffled = np.random.default_rng(0).permutation(len(target))
    of_digit = [shuffled[target[shuffled] == digit] for digit in range(10)]
    low, high = SPLITS[split]
    return tuple(found[round(low * len(found)) : round(high * len(found))] for found in of_digit)


def enlarged(images: np.ndarray, side: int) -> np.ndarray:
    """Images (..,8,8) in another size (..,side,side), bilinear."""
    centers = (np.arange(side) + 0.5) * 8 / side - 0.5  # of the enlarged pixels, counted in original ones
    weights = np.maximum(0, 1 - np.abs(np.clip(centers, 0, 7)[:, None] - np.arange(8)))
    return weights @ images @ weights.T


@functools.cache
def _pictures() -> np.ndarray:
    """Every sample in every tint, (n,k,16,16,3) uint8: bilinearly enlarged; the last is the disc."""
    glyphs = enlarged(handwriting().images / 16, GLYPH)
    y, x = np.indices((GLYPH, GLYPH)) - (GLYPH - 1) / 2
    glyphs = np.concatenate([glyphs, (np.hypot(y, x) <= DISC / 2)[None]])
    tints = np.array(list(TINTS.values()), np.float32)
    return np.rint(glyphs[:, None, :, :, None] * tints[:, None, None]).astype(np.uint8)
