"""A keypoint task that fits a laptop: a place far away tells left from right.

A picture shows one figure in the pose of a real person. All limbs are drawn alike. The figure is seen from the front or
from behind. Only the shoes show the view: they are light from the front and dark from behind. Take a figure that is
seen from the front and turn it round. Its right wrist now lies where its left wrist lay. In most poses the arms are
raised, so shoulders, elbows and wrists are far from the shoes.

Half of the poses are mirrored. So for any drawing of the limbs, both assignments of left and right are equally
probable. A network whose field of view does not reach from a keypoint to the shoes can find the two wrists of a figure
as well as any other network. But it can tell the left wrist from the right wrist only by chance.

The keypoints are COCO's 17. Eyes and nose are not labelled in a figure that is seen from behind. The poses come from
poses.npz (see poses.txt). Training, validation and test use different poses.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as Pictures
from PIL import ImageDraw

from nl_jax.data.coco.annotations import Image, Instance
from nl_jax.data.coco.detection import DetectionImages
from nl_jax.data.coco.example import Shape
from nl_jax.data.coco.keypoints import COCO_NAMES, of_coco
from nl_jax.data.embedded.drawn import Numbers, check_ranges, check_split, hash_of
from nl_jax.errors import InputError

FILE = Path(__file__).with_name("poses.npz")
SPLITS = {"train": (0, 0.7), "validation": (0.7, 0.85), "test": (0.85, 1)}  # fractions of the poses, in their order
WIDTH, HEIGHT = 128, 192
SIDES = (140, 172)  # pixels from the eyes to the feet
GROUND = 0.8  # fraction of the height of a pose, from its top; both ankles must be lower
MARGIN = 10  # pixels around the keypoints, for the head, the shoes and the width of limbs
LIMB, HEAD, SHOE = 7, 10, 9  # pixels: width of a limb, radius of a head and of a shoe
TOES, HEELS = (250, 220, 140), (60, 45, 160)  # shoes seen from the front and from behind
CLOTHES = ((70, 160, 90), (180, 90, 80), (150, 150, 150), (170, 150, 60))
LIMBS = (("shoulder", "elbow"), ("elbow", "wrist"), ("shoulder", "hip"), ("hip", "knee"), ("knee", "ankle"))
HIDDEN_BEHIND = ("nose", "left_eye", "right_eye")
PLACES = {name: place for place, name in enumerate(COCO_NAMES)}


@dataclass(frozen=True)
class Figure:
    """The figure of a picture.

    Attributes:
      points: (17, 2), x and y of the keypoints in pixels; the centre of a pixel is at one half.
      behind: whether the figure is seen from behind.
      clothes: index of the colour of its limbs in `CLOTHES`.
    """

    points: np.ndarray
    behind: bool
    clothes: int


class Poses(DetectionImages):
    """The pictures of one split, drawn on demand. The same seed, split, index and parameters give the same picture.

    Args:
      split: train, validation or test. The splits have different poses.
      size: number of pictures.
      seed: seed of the random numbers. Other seeds give other pictures of the same poses.
      noise: maximum grey level (of 255) of the background, which is uniform noise from 0.

    Raises:
      InputError: a value is out of range, or the split is unknown.
    """

    def __init__(self, split: str, *, size: int, seed: int = 0, noise: int = 24):
        check_split(split, SPLITS)
        check_ranges(("size", size, 1, None), ("seed", seed, 0, None), ("noise", noise, 0, 255))
        self.split, self.size, self.seed, self.noise = split, size, seed, noise
        shape = Shape((WIDTH,), HEIGHT, WIDTH, max_boxes=1)
        options = {
            "shape": shape,
            "masks": False,
            "keypoints": of_coco(1),
            "flip": False,  # every picture is drawn anew
        }
        groups = np.ones(size, np.int32)  # all pictures are tall
        super().__init__("poses", Numbers(size), ("figure",), (1,), groups, **options)

    def annotated(self, index: int) -> Image:
        """Returns the annotations of a picture: the keypoints of its figure, and the box of the drawn pixels."""
        figure = self.compose(index)
        drawn = np.asarray(_mask(figure))
        rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
        box = (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
        visible = [0 if figure.behind and name in HIDDEN_BEHIND else 2 for name in COCO_NAMES]
        points = np.concatenate([figure.points - 0.5, np.array(visible, float)[:, None]], axis=1)
        points[points[:, 2] == 0] = 0
        instance = Instance(0, tuple(map(float, box)), 0, False, float((drawn > 0).sum()), None, points)
        return Image(index, self.names[index], WIDTH, HEIGHT, [instance])

    def pixels(self, index: int) -> np.ndarray:
        """Returns the picture, uint8 (h, w, 3)."""
        figure = self.compose(index)
        noise = self._rng(index, 1).integers(0, self.noise + 1, (HEIGHT, WIDTH, 3), np.uint8)
        mask = np.asarray(_mask(figure))
        colours = np.array([(0, 0, 0), CLOTHES[figure.clothes], HEELS if figure.behind else TOES], np.uint8)
        return np.where(mask[..., None] > 0, colours[mask], noise)

    def compose(self, index: int) -> Figure:
        """Returns the figure of a picture.

        Raises:
          InputError: `index` is out of range.
        """
        if not 0 <= index < self.size:
            raise InputError(f"index={index} is out of range; choose 0 to {self.size - 1}")
        rng = self._rng(index, 0)
        of_split = poses(self.split)
        points = of_split[rng.integers(len(of_split))] * rng.uniform(*SIDES)
        behind, mirrored = rng.integers(2, size=2).astype(bool).tolist()
        if mirrored:  # a new pose: left and right change their sides
            points = (points * (-1, 1))[of_coco(1).flip_order]
        if behind:  # the same figure from the other side
            points = points * (-1, 1)
        points = points - points.min(axis=0)
        room = np.array([WIDTH, HEIGHT]) - 2 * MARGIN - points.max(axis=0)
        points = points + MARGIN + rng.uniform(0, np.maximum(room, 0))
        return Figure(points, behind, int(rng.integers(len(CLOTHES))))

    def list_hash(self) -> str:
        """Returns a hash (12 hex digits) of split, size, seed and noise. Equal parameters give equal pictures."""
        parameters = {name: getattr(self, name) for name in ("split", "size", "seed", "noise")}
        return hash_of(parameters)

    def failure_reason(self, index: int) -> str:
        """Always raises, because a picture is drawn and cannot fail to decode.

        Raises:
          InputError: always.
        """
        raise InputError(f"index={index}: a picture that is drawn cannot fail to decode")

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, list(SPLITS).index(self.split), index, stream])


@functools.cache
def poses(split: str) -> np.ndarray:
    """Returns the poses of a split, (n, 17, 2): x and y of COCO's keypoints, from 0. The height of a pose is 1.

    All poses are seen from the front. Both feet of each pose are on the ground, because a raised foot would bring a
    shoe near the arms.
    """
    with np.load(FILE) as file:
        points = file["points"] / 255.0
    first, last = (round(share * len(points)) for share in SPLITS[split])
    points = points[first:last]
    ankles = [PLACES["left_ankle"], PLACES["right_ankle"]]
    return points[(points[:, ankles, 1] > GROUND).all(axis=1)]


def _mask(figure: Figure) -> Pictures.Image:
    """Returns a picture with 0 on the background, 1 on limbs and head, 2 on the shoes."""
    picture = Pictures.new("L", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(picture)
    at = {name: tuple(figure.points[place].tolist()) for name, place in PLACES.items()}
    lines = [(at[f"{side}_{a}"], at[f"{side}_{b}"]) for side in ("left", "right") for a, b in LIMBS]
    lines += [(at[f"left_{part}"], at[f"right_{part}"]) for part in ("shoulder", "hip")]
    middle = tuple(np.mean([at["left_shoulder"], at["right_shoulder"]], axis=0).tolist())
    lines.append((middle, at["nose"]))
    for line in lines:
        draw.line(line, fill=1, width=LIMB)
        for x, y in line:
            draw.ellipse((x - LIMB / 2, y - LIMB / 2, x + LIMB / 2, y + LIMB / 2), fill=1)
    head = tuple(np.mean([at["left_ear"], at["right_ear"]], axis=0).tolist())
    for (x, y), radius, fill in ((head, HEAD, 1), (at["left_ankle"], SHOE, 2), (at["right_ankle"], SHOE, 2)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    return picture
