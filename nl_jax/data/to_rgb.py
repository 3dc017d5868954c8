"""Decoded frames as images: scaled, cropped, in full-range RGB and upright."""

from collections.abc import Callable
from fractions import Fraction

import av
import av.filter
import numpy as np
from av.sidedata.sidedata import Type as SideData


class ToRgb:
    """Upright uint8 (h, w, 3) images of decoded frames, all scaled to one size, which the first of them decides.

    Scaled first, then cropped, then made RGB: each step works on as few samples as can be.

    Args:
        short_side: pixels of the shorter side; None keeps the size.
        enlarge: whether frames that are smaller are scaled, too.
        multiple: of which height and width are made multiples.
        upright: whether images are turned as the file asks; else they stay as they are stored.
        crop: from the height and width of the scaled, upright images to (top, left, side) of the part that is wanted.
    """

    def __init__(
        self,
        short_side: int | None,
        *,
        enlarge: bool = True,
        multiple: int = 1,
        upright: bool = True,
        crop: Callable[[int, int], tuple[int, int, int]] | None = None,
    ):
        self._short_side, self._enlarge, self._multiple, self._choose = short_side, enlarge, multiple, crop
        self._upright = upright
        self._size: tuple[int, int] | None = None
        self._crop: tuple[int, int, int] | None = None
        self._transposed, self._flips = False, (1, 1)
        self._format: tuple[int, int, str] | None = None  # of the frames that the graph takes
        self._graph: av.filter.Graph | None = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """The image of a decoded frame, uint8 (h, w, 3)."""
        if self._size is None:
            self._decide(frame)
        if self._format != (frame.width, frame.height, frame.format.name):
            self._build(frame)
        self._graph.push(frame)
        image = self._graph.pull().to_ndarray()
        if self._transposed:
            image = image.swapaxes(0, 1)
        image = image[:: self._flips[0], :: self._flips[1]]
        if self._crop is None:
            return image
        top, left, side = self._crop
        return image[top : top + side, left : left + side]

    def _decide(self, frame: av.VideoFrame) -> None:
        now = min(frame.width, frame.height)
        side = self._short_side or now
        scale = (side if self._enlarge else min(side, now)) / now / self._multiple
        self._size = tuple(max(1, round(n * scale)) * self._multiple for n in (frame.width, frame.height))
        if self._upright:
            self._transposed, self._flips = _display(frame)
        if self._choose is not None:
            self._crop = self._choose(*(self._size if self._transposed else self._size[::-1]))

    def _build(self, frame: av.VideoFrame) -> None:
        graph = av.filter.Graph()
        last = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
        )
        steps = []
        if self._size != (frame.width, frame.height):
            steps.append(("scale", f"{self._size[0]}:{self._size[1]}:flags=bilinear"))
        if self._crop is not None and not self._transposed and self._flips == (1, 1):
            # Where chroma has fewer samples only even places can be cut, and even sizes become RGB fastest: what is too
            # much is cut afterwards.
            top, left, side = self._crop
            width, height = (
                min((side + place % 2 + 1) // 2 * 2, room - place + place % 2)
                for place, room in zip((left, top), self._size, strict=True)
            )
            steps.append(("crop", f"{width}:{height}:{left - left % 2}:{top - top % 2}:exact=1"))
            self._crop = top % 2, left % 2, side
        steps += [("scale", "flags=bilinear"), ("format", "rgb24"), ("buffersink", None)]
        for name, arguments in steps:
            node = graph.add(name, arguments)
            last.link_to(node)
            last = node
        graph.configure()
        self._graph, self._format = graph, (frame.width, frame.height, frame.format.name)


def _display(frame: av.VideoFrame) -> tuple[bool, tuple[int, int]]:
    """What makes a stored frame upright: whether to transpose it, then the steps (1 or -1) through rows and columns.

    The display matrix sends the stored pixel (x, y) to (a x + c y, b x + d y); quarter turns and mirrorings are obeyed.
    """
    matrix = frame.side_data.get(SideData.DISPLAYMATRIX)
    if matrix is None:
        return False, (1, 1)
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    transposed = abs(c) > abs(a)
    right, down = (c, b) if transposed else (a, d)
    return transposed, (-1 if down < 0 else 1, -1 if right < 0 else 1)
