"""Turns decoded frames into images: scaled, cropped, in full-range RGB, upright and with square pixels."""

import re
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import VideoReformatter

MAX_ASPECT = 8
"""Maximum ratio of the longer side to the shorter side of a frame that is scaled."""

# Formats with three planes of bytes, which can be cropped before the conversion to RGB. For formats with more bits the
# conversion depends on the file's colour description, which a cropped frame would lose.
_PLANAR = re.compile(r"yuvj?4(20|22|44)p")
_HALVED = {"20": (1, 1), "22": (0, 1), "44": (0, 0)}  # whether chroma has half the rows, and half the columns


class PictureError(ValueError):
    """The frames of a video have a size from which no clip is made. The message gives the reason."""


class ToRgb:
    """Turns decoded frames of one video into upright uint8 (h, w, 3) images of one size.

    The first frame of the video decides the size. A later frame can have another size or aspect (a turned phone, joined
    files). It is then fitted into this size, as a player does: it keeps its aspect, it is centred, and the rest is
    black.

    The frame is scaled first, then cropped, then converted to RGB, so that each step works on as few samples as
    possible.

    Args:
      short_side: pixels of the shorter side; None keeps the size.
      first_size: a function that receives the first frame passed to this object. It returns the stored width and height
        of the first frame of the video. None takes the size of the frame that is passed.
      pixel_aspect: width of a pixel over its height. A frame without square pixels is enlarged along one side.
      enlarge: whether frames smaller than `short_side` are enlarged.
      multiple: height and width become multiples of this number.
      upright: whether images are turned as the file asks. Otherwise they stay as stored.
      crop: a function from the height and width of the scaled, upright images to (top, left, side) of the square to cut
        out. None cuts nothing.
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
        self._size: tuple[int, int] | None = None  # width and height of all images, before they are turned upright
        self._crop: tuple[int, int, int] | None = None
        self._transposed, self._flips = False, (1, 1)
        # A reformatter keeps its tables for one pair of sizes. libav's filters would keep them too, but PyAV's filter
        # graphs are in a reference cycle, so their memory is freed late.
        self._scale, self._convert = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Returns the image of a decoded frame, uint8 (h, w, 3).

        Raises:
          PictureError: frames must be scaled, and one side is more than MAX_ASPECT times the other.
        """
        if self._size is None:
            self._decide(frame)
        size, crop = self._fitted(frame), self._crop
        if (frame.width, frame.height) != size:
            # The scaler cannot write every format. It cannot write a palette, for example.
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
        """Returns the width and height in square pixels."""
        aspect = float(self._pixel_aspect)
        return (width * aspect, float(height)) if aspect >= 1 else (float(width), height / aspect)

    def _fitted(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Returns the size to scale a frame to: the size of all images, or a smaller size with the frame's aspect."""
        if (frame.width, frame.height) == self._first_size:
            return self._size
        shown = self._shown(frame.width, frame.height)
        scale = min(room / side for room, side in zip(self._size, shown, strict=True))
        return tuple(min(room, max(1, round(side * scale))) for room, side in zip(self._size, shown, strict=True))


def _crop_planes(frame: av.VideoFrame, crop: tuple[int, int, int]) -> tuple[av.VideoFrame, tuple[int, int, int]]:
    """Cuts a part around a crop out of a frame. Returns the part, and the crop inside the part.

    A frame with another format than three planes of bytes is returned whole. Chroma with fewer samples can only be cut
    at even places, and even sizes are converted to RGB fastest. So the part may be larger than the crop; the caller
    cuts the rest.
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
    """Puts an image in the middle of a black image of this width and height."""
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    top, left = ((room - n) // 2 for room, n in zip(canvas.shape, image.shape[:2], strict=False))
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


def _unknown_side_data(cls, value):
    member = object.__new__(cls)
    member._name_, member._value_ = f"UNKNOWN_{value}", value
    return member


# PyAV raises an error for all side data of a frame if it does not know one kind. Before version 19 EXIF is unknown.
SideData._missing_ = classmethod(_unknown_side_data)


def _display(frame: av.VideoFrame) -> tuple[bool, tuple[int, int]]:
    """Returns how to turn a frame upright: whether to transpose it, then the steps (1 or -1) through rows and columns.

    The display matrix maps the stored pixel (x, y) to (a x + c y, b x + d y). Only quarter turns and mirrorings are
    applied.
    """
    # A frame and its side data form a reference cycle. With a small copy the cycle keeps little memory.
    copy = frame.reformat(2, 2, format="gray", interpolation="POINT", threads=1)
    matrix = copy.side_data.get(SideData.DISPLAYMATRIX)
    if matrix is None:
        return False, (1, 1)
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    transposed = abs(c) > abs(a)
    right, down = (c, b) if transposed else (a, d)
    return transposed, (-1 if down < 0 else 1, -1 if right < 0 else 1)
