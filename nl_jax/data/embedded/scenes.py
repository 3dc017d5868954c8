"""A detection task that fits a laptop: boxes and masks depend on nearby pixels, classes on pixels far away.

A scene is a wide picture. Two to four handwritten digits in white, orange, cyan or magenta lie at one end of it. A
disc, the cue, lies far from them, towards the other end. The cue is red, green, blue or yellow. Each digit is an object
to detect and to segment. Its class is the tint of the cue: only pixels at least `gap` pixels from the box of a digit
tell its class.

The digits, their paints and their places are drawn independently of the cue. So a network whose field of view does not
reach from a digit to the cue can detect and segment digits as well as any other network. But it can classify them only
by chance: with k cues it is right one time in k. This share bounds its average precision, because its scores do not
separate right classes from wrong classes either. One non-local block lifts the bound.

The geometry, along the long side, of a scene that is 192 pixels wide:

| pixels | content |
|---|---|
| 0 to 72 | the digits, 18 to 28 pixels a side, on a grid of 2 x 3 cells so that none hides another |
| 72 to 176 | nothing: the gap of 104 pixels |
| 176 to 192 | the cue, 14 pixels across |

In half of the scenes the cue is on the left. A ResNet with one residual block a stage and a feature pyramid sees 76
pixels beyond the region that its features are pooled from (`nl_jax.models.field_of_view.reach`). The region may be a
proposal that overlaps the box of a digit by one half. This proposal ends at most the width of the box, 28 pixels,
beyond the box. So the gap is 76 + 28 = 104.

The digits are the 1797 that scikit-learn ships. Training, validation and test use different samples.
"""

import functools
from dataclasses import dataclass

import numpy as np

from nl_jax.data.coco.annotations import Image, Instance
from nl_jax.data.coco.detection import DetectionImages
from nl_jax.data.coco.example import Shape
from nl_jax.data.coco.masks import compressed
from nl_jax.data.embedded.digits import SPLITS, TINTS, enlarged, handwriting, samples
from nl_jax.data.embedded.drawn import Numbers, check_ranges, check_split, hash_of
from nl_jax.errors import InputError

CUE = 14  # pixels across
STRIP = 16  # pixels along the long side of the part in which the cue lies
CELLS = (3, 2)  # cells of the grid of digits: down the short side, along the long side
CELL = (32, 36)  # pixels of a cell, down and along
SIDES = (18, 28)  # pixels of a digit
HEIGHT = CELLS[0] * CELL[0]
# Paints of digits. No paint is a tint of the cue: otherwise a network would first have to tell discs from digits.
PAINTS = ((235, 235, 235), (240, 150, 40), (60, 220, 220), (230, 90, 220))  # white, orange, cyan, magenta
INK = 0.3  # fraction of the largest brightness: brighter pixels of a digit belong to its mask


@dataclass(frozen=True)
class Thing:
    """A digit or the cue, and the place of its square.

    Attributes:
      sample: index of one of scikit-learn's digits; -1 for the cue.
      tint: index of a digit's paint in `PAINTS`, or of the cue's tint in `TINTS`.
      side: side of the square in pixels.
      top, left: place of the square in pixels.
    """

    sample: int
    tint: int
    side: int
    top: int
    left: int


class Scenes(DetectionImages):
    """The scenes of one split, drawn on demand. The same seed, split, index and parameters give the same scene.

    Args:
      split: train, validation or test. The splits use different samples of the handwritten digits.
      size: number of scenes.
      seed: seed of the random numbers. Other seeds give other scenes of the same handwritten samples.
      width: width of a scene in pixels, a multiple of 32. The height is 96.
      gap: pixels between the part of the digits and the part of the cue. A small gap gives the control task with a near
        cue.
      cues: number of tints that the cue can have, 2 to 4. The tints are the classes.
      digits: (lowest, highest) number of digits in a scene, from 1 to 6.
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
        width: int = 192,
        gap: int = 104,
        cues: int = 4,
        digits: tuple[int, int] = (2, 4),
        noise: int = 24,
    ):
        check_split(split, SPLITS)
        room = CELLS[1] * CELL[1] + STRIP
        check_ranges(
            ("size", size, 1, None),
            ("seed", seed, 0, None),
            ("width", width, room, None),
            ("gap", gap, 0, width - room),
            ("cues", cues, 2, len(TINTS)),
            ("noise", noise, 0, 255),
        )
        most = CELLS[0] * CELLS[1]
        if len(digits) != 2 or not 1 <= digits[0] <= digits[1] <= most:
            raise InputError(f"digits={digits} is out of range; choose (lowest, highest) of 1 to {most}")
        if width % 32:
            raise InputError(f"width={width} is out of range; choose a multiple of 32")
        self.split, self.size, self.seed = split, size, seed
        self.width, self.gap, self.cues, self.digits, self.noise = width, gap, cues, tuple(digits), noise
        super().__init__(
            "scenes",
            Numbers(size),
            tuple(TINTS)[:cues],
            tuple(range(1, cues + 1)),
            np.zeros(size, np.int32),
            shape=Shape((HEIGHT,), width, HEIGHT, max_boxes=most),
            masks=True,
            flip=False,  # every scene is drawn anew
        )

    def annotated(self, index: int) -> Image:
        """Returns the digits of a scene with the class that its cue gives them."""
        things, cue = self.compose(index)
        instances = []
        for number, thing in enumerate(things):
            mask = np.zeros((HEIGHT, self.width), np.uint8)
            window(mask, thing)[:] = glyph(thing) > INK
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            bbox = tuple(
                float(value) for value in (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
            )
            instances.append(Instance(number, bbox, cue.tint, False, float(mask.sum()), compressed(mask)))
        return Image(index, self.names[index], self.width, HEIGHT, instances)

    def pixels(self, index: int) -> np.ndarray:
        """Returns the picture of a scene, uint8 (h, w, 3)."""
        things, cue = self.compose(index)
        image = self._rng(index, 1).integers(0, self.noise + 1, (HEIGHT, self.width, 3), np.uint8)
        for thing in (*things, cue):
            colour = list(TINTS.values())[thing.tint] if thing is cue else PAINTS[thing.tint]
            part = window(image, thing)
            np.maximum(part, np.rint(glyph(thing)[..., None] * colour).astype(np.uint8), out=part)
        return image

    def compose(self, index: int) -> tuple[list[Thing], Thing]:
        """Returns the digits of a scene, and its cue.

        Raises:
          InputError: `index` is out of range.
        """
        if not 0 <= index < self.size:
            raise InputError(f"index={index} is out of range; choose 0 to {self.size - 1}")
        rng = self._rng(index, 0)
        tint = int(rng.integers(self.cues))
        left = CELLS[1] * CELL[1] + self.gap + int(rng.integers(STRIP - CUE + 1))
        cue = Thing(-1, tint, CUE, int(rng.integers(HEIGHT - CUE + 1)), left)
        things = []
        for cell in rng.permutation(CELLS[0] * CELLS[1])[: rng.integers(self.digits[0], self.digits[1] + 1)]:
            side = int(rng.integers(SIDES[0], SIDES[1] + 1))
            corner = np.array(divmod(int(cell), CELLS[1])) * CELL
            top, left = (corner + rng.integers(np.array(CELL) - side + 1)).tolist()
            sample = int(rng.choice(samples(self.split)[rng.integers(10)]))
            things.append(Thing(sample, int(rng.integers(len(PAINTS))), side, top, left))
        if rng.integers(2):
            things, cue = [self._turned(thing) for thing in things], self._turned(cue)
        return things, cue

    def list_hash(self) -> str:
        """Returns a hash (12 hex digits) of all parameters. The same parameters give the same scenes."""
        names = ("split", "size", "seed", "width", "gap", "cues", "digits", "noise")
        parameters = {name: getattr(self, name) for name in names}
        return hash_of(parameters)

    def failure_reason(self, index: int) -> str:
        """Always raises, because a scene is drawn and cannot fail to decode.

        Raises:
          InputError: always.
        """
        raise InputError(f"index={index}: a scene that is drawn cannot fail to decode")

    def _turned(self, thing: Thing) -> Thing:
        return Thing(thing.sample, thing.tint, thing.side, thing.top, self.width - thing.left - thing.side)

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, list(SPLITS).index(self.split), index, stream])


def window(image: np.ndarray, thing: Thing) -> np.ndarray:
    """Returns the part of an image (h, w, ..) in which a thing lies, as a view."""
    return image[thing.top : thing.top + thing.side, thing.left : thing.left + thing.side]


def glyph(thing: Thing) -> np.ndarray:
    """Returns the brightness of each pixel of a thing, (side, side) from 0 to 1."""
    return _disc(thing.side) if thing.sample < 0 else enlarged(handwriting().images[thing.sample] / 16, thing.side)


@functools.cache
def _disc(side: int) -> np.ndarray:
    y, x = np.indices((side, side)) - (side - 1) / 2
    return (np.hypot(y, x) <= side / 2).astype(np.float64)
