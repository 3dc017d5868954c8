"""Images of a data set in COCO's format: decoded as its annotations see them, and scaled as the recipe asks."""

import av
import numpy as np
from jaxtyping import UInt8

from nl_jax.data.decode import DecodeError, Source, decode_frames, open_video
from nl_jax.data.to_rgb import ToRgb

MULTIPLE = 32  # of the sides of a padded batch: the coarsest level of the pyramid has a place for every 32 pixels


class SizeError(DecodeError):
    """An image of another size than its annotations say."""


def read_image(source: Source, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    """The image in the pixels that its annotations count, full-range RGB.

    A photograph may carry a tag that asks for it to be turned. Annotation tools differ: some show it turned, others as
    it is stored. The size in the annotation file tells the two apart where the tag asks for a quarter turn. Otherwise
    the image is turned, as OpenCV, detectron2 and mmdetection do.

    Args:
        source: a file, or the bytes of one.
        width: in pixels, as the annotation file says.
        height: likewise.

    Raises:
        SizeError: the image has another size.
        DecodeError: there is no such file, or no whole image in it.
    """
    return _read(source, width, height)[0]


def is_turned(source: Source, width: int, height: int) -> bool:
    """Whether the annotations see the image as it is stored, although a tag asks for a quarter turn.

    Raises:
        DecodeError: as `read_image`.
    """
    return _read(source, width, height)[1]


def _read(source: Source, width: int, height: int) -> tuple[np.ndarray, bool]:
    damage: list[str] = []
    with open_video(source) as (container, stream):
        stream.codec_context.options = {"err_detect": "explode"}  # else half a JPEG is an image with a grey half
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
    """Height and width after scaling: the shorter side to `short_side`, or less so that the longer fits `long_side`."""
    scale = min(short_side / min(height, width), long_side / max(height, width))
    return tuple(max(1, int(side * scale + 0.5)) for side in (height, width))


def bucket_of(short_side: int, long_side: int) -> tuple[int, int]:
    """Height and width of the padded batch of wide images; tall ones have them exchanged."""
    return tuple(-(-side // MULTIPLE) * MULTIPLE for side in (short_side, long_side))


def resize(image: UInt8[np.ndarray, "h w 3"], height: int, width: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image in another size, bilinear; where it shrinks, over all pixels that a new one covers."""
    if image.shape[:2] == (height, width):
        return image
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return frame.reformat(width=width, height=height, interpolation="BILINEAR").to_ndarray()
