"""Decoded frames as images: scaled, cropped, in full-range RGB, upright and with square pixels."""

import re
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import VideoReformatter

MAX_ASPECT = 8
"""A frame that is to be scaled may be so many times as wide as high, or as high as wide."""

# Formats of three planes of bytes, which can be cropped before they become RGB. Of those with more bits RGB depends on
# where the file says that its colours lie, which a part would not say.
_PLANAR = re.compile(r"yuvj?4(20|22|44)p")
_HALVED = {"20": (1, 1), "22": (0, 1), "44": (0, 0)}  # whether chroma has half of the rows, and of the columns


class PictureError(ValueError):
    """Pictures of a size that no clip is made of; the message says why."""


class ToRgb:
    """Upright uint8 (h, w, 3) images of decoded frames, all of one size.

    The size is decided once for a video, by its first frame. A later frame of another size or aspect (a turned phone,
    joined files) is fitted into it, as a player does: the aspect is kept, the frame is centred, what is left is black.

    Scaled first, then cropped, then made RGB: each step works on as few samples as can be.

    Args:
        short_side: pixels of the shorter side; None keeps the size.
        first_size: from the frame that comes first to stored width and height of the first frame of the video; None
            takes those of the frame.
        pixel_aspect: width of a pixel over its height. A frame of other than square pixels is enlarged along one side.
        enlarge: whether frames that are smaller are scaled, too.
        multiple: of which height and width are made multiples.
        upright: whether images are turned as the file asks; else they stay as they are stored.
        crop: from the height and width of the scaled, upright images to (top, left, side) of the part that is wanted.
    """

    def __init__(
        self,
        short_side: int | None,
        *,
        first_size: Callable[[av.VideoFrame], tuple[int, int]] | None = None,
        pixel_aspect: Fraction = Fraction(1),
        enlarge: bool = True,
        multiple: int = 1,
        upright: bool = True,
        crop: Callable[[int, int], tuple[int, int, int]] | None = None,
    ):
        self._short_side, self._enlarge, self._multiple, self._choose = short_side, enlarge, multiple, crop
        self._upright = upright
        self._ask_first_size, self._pixel_aspect = first_size, pixel_aspect
        self._first_size = (0, 0)
        self._size: tuple[int, int] | None = None  # of all images, width and height, before they are made upright
        self._crop: tuple[int, int, int] | None = None
        self._transposed, self._flips = False, (1, 1)
        # They hold what they have computed for one pair of sizes; libav's filters would do the same, but their graphs
        # are part of a reference cycle.
        self._scale, self._convert = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """The image of a decoded frame, uint8 (h, w, 3).

        Raises:
            PictureError: the frames are far wider than high, or far higher than wide.
        """
        if self._size is None:
            self._decide(frame)
        size, crop = self._fitted(frame), self._crop
        if (frame.width, frame.height) != size:
            # Not every format can be written: a palette, for one, cannot.
            kept = frame.format.name if _PLANAR.fullmatch(frame.format.name) else "rgb24"
            frame = self._scale.reformat(frame, *size, format=kept, interpolation="BILINEAR", threads=1)
        if crop is not None and size == self._size and not self._transposed and self._flips == (1, 1):
            frame, crop = _crop_planes(frame, crop)
        image = self._convert.reformat(frame, format="rgb24", interpolation="BILINEAR", threads=1).to_ndarray()
        if size != self._size:
            image = _centred(image, self._size)
        if self._transposed:
            image = image.swapaxes(0, 1)
        image = image[:: self._flips[0], :: self._flips[1]]
        if crop is None:
            return image
        top, left, side = crop
        return image[top : top + side, left : left + side]

    def _decide(self, frame: av.VideoFrame) -> None:
        ask = self._ask_first_size
        self._first_size = (frame.width, frame.height) if ask is None else ask(frame)
        shown = self._shown(*self._first_size)
        now = min(shown)
        side = self._short_side or round(now)
        if self._short_side and max(shown) > MAX_ASPECT * now:
            width, height = (round(side) for side in shown)
            raise PictureError(
                f"its pictures are {width} x {height}, valid is at most {MAX_ASPECT} times as wide as high or as high "
                "as wide"
            )
        scale = (side if self._enlarge else min(side, now)) / now / self._multiple
        self._size = tuple(max(1, round(n * scale)) * self._multiple for n in shown)
        if self._upright:
            self._transposed, self._flips = _display(frame)
        if self._choose is not None:
            self._crop = self._choose(*(self._size if self._transposed else self._size[::-1]))

    def _shown(self, width: int, height: int) -> tuple[float, float]:
        """Width and height in square pixels."""
        aspect = float(self._pixel_aspect)
        return (width * aspect, float(height)) if aspect >= 1 else (float(width), height / aspect)

    def _fitted(self, frame: av.VideoFrame) -> tuple[int, int]:
        """The size to which a frame is scaled: that of all images, or a part of it that keeps the frame's aspect."""
        if (frame.width, frame.height) == self._first_size:
            return self._size
        shown = self._shown(frame.width, frame.height)
        scale = min(room / side for room, side in zip(self._size, shown, strict=True))
        return tuple(min(room, max(1, round(side * scale))) for room, side in zip(self._size, shown, strict=True))


def _crop_planes(frame: av.VideoFrame, crop: tuple[int, int, int]) -> tuple[av.VideoFrame, tuple[int, int, int]]:
    """A part of a frame around a crop, and the crop inside of it; the whole frame where its format has no such planes.

    Where chroma has fewer samples only even places can be cut, and even sizes become RGB fastest: what is too much is
    left for later.
    """
    match = _PLANAR.fullmatch(frame.format.name)
    if match is None:
        return frame, crop
    top, left, side = crop
    height, width = (
        min((side + place % 2 + 1) // 2 * 2, room - place + place % 2)
        for place, room in zip((top, left), (frame.height, frame.width), strict=True)
    )
    part = av.VideoFrame(width, height, frame.format.name)
    part.colorspace, part.color_range = frame.colorspace, frame.color_range
    for i, (source, target) in enumerate(zip(frame.planes, part.planes, strict=True)):
        halved = _HALVED[match[1]] if i else (0, 0)
        y, x = ((place - place % 2) >> half for place, half in zip((top, left), halved, strict=True))
        _rows_of(target)[:, : target.width] = _rows_of(source)[y : y + target.height, x : x + target.width]
    return part, (top % 2, left % 2, side)


def _rows_of(plane) -> np.ndarray:
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)


def _centred(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image in the middle of a black one of this width and height."""
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    top, left = ((room - n) // 2 for room, n in zip(canvas.shape, image.shape[:2], strict=False))
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


def _unknown_side_data(cls, value):
    member = object.__new__(cls)
    member._name_, member._value_ = f"UNKNOWN_{value}", value
    return member


# PyAV raises an error for all side data of a frame if it does not know one of them: EXIF, before version 19.
SideData._missing_ = classmethod(_unknown_side_data)


def _display(frame: av.VideoFrame) -> tuple[bool, tuple[int, int]]:
    """What makes a stored frame upright: whether to transpose it, then the steps (1 or -1) through rows and columns.

    The display matrix sends the stored pixel (x, y) to (a x + c y, b x + d y); quarter turns and mirrorings are obeyed.
    """
    # A frame and its side data hold each other until the garbage collector comes by: of a small copy instead.
    copy = frame.reformat(2, 2, format="gray", interpolation="POINT", threads=1)
    matrix = copy.side_data.get(SideData.DISPLAYMATRIX)
    if matrix is None:
        return False, (1, 1)
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    transposed = abs(c) > abs(a)
    right, down = (c, b) if transposed else (a, d)
    return transposed, (-1 if down < 0 else 1, -1 if right < 0 else 1)
