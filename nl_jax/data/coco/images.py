"""Decodes the images of a data set in COCO's format the way their annotations see them, and scales them."""

import av
import numpy as np
from jaxtyping import UInt8

from nl_jax.data.decode import DecodeError, Source, decode_frames, open_video
from nl_jax.data.to_rgb import ToRgb

MULTIPLE = 32  # divides the sides of a padded batch: P5, the coarsest map of the backbone, has a stride of 32


class SizeError(DecodeError):
    """The size of an image differs from the size in its annotations."""


def read_image(source: Source, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the image in the pixels that its annotations count, in full-range RGB.

    A photograph may have a tag that asks viewers to turn it. Some annotation tools turn it, others show it as it is
    stored. If the tag asks for a quarter turn, the size in the annotation file tells the two apart. Otherwise the image
    is turned, as OpenCV, detectron2 and mmdetection do.

    Args:
        source: a file, or its bytes.
        width: the width in pixels in the annotation file.
        height: the height in pixels in the annotation file.

    Raises:
        SizeError: the image has another size.
        DecodeError: the file does not exist, or has no whole image.
    """
    return _read(source, width, height)[0]


def is_turned(source: Source, width: int, height: int) -> bool:
    """Returns whether the annotations see the image as it is stored, although a tag asks for a quarter turn.

    Raises:
        DecodeError: as `read_image`.
    """
    return _read(source, width, height)[1]


def _read(source: Source, width: int, height: int) -> tuple[np.ndarray, bool]:
    damage: list[str] = []
    with open_video(source) as (container, stream):
        stream.codec_context.options = {"err_detect": "explode"}  # else half a JPEG decodes with a grey half
        frame = next(decode_frames(container, stream, damage=damage), None)
        if frame is None:
            raise DecodeError(source, f"no whole image can be decoded ({damage[0] if damage else 'it has no frame'})")
        image = ToRgb(None)(frame)
        if image.shape[:2] == (height, width):
            return image, False
        if (frame.height, frame.width) == (height, width):
            return ToRgb(None, upright=False)(frame), True
    raise SizeError(source, f"found {image.shape[1]} x {image.shape[0]} pixels, the annotations say {width} x {height}")


def scaled_size(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """Returns height and width after scaling the shorter side to `short_side`, or less so that `long_side` is kept."""
    scale = min(short_side / min(height, width), long_side / max(height, width))
    return tuple(max(1, int(side * scale + 0.5)) for side in (height, width))


def bucket_of(short_side: int, long_side: int) -> tuple[int, int]:
    """Returns height and width of a padded batch of wide images; for tall images they are exchanged."""
    return tuple(-(-side // MULTIPLE) * MULTIPLE for side in (short_side, long_side))


def resize(image: UInt8[np.ndarray, "h w 3"], height: int, width: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Returns the image in another size, bilinear. When it shrinks, a new pixel averages all pixels that it covers."""
    if image.shape[:2] == (height, width):
        return image
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return frame.reformat(width=width, height=height, interpolation="BILINEAR").to_ndarray()
