"""Decodes images in the orientation of their annotations, and scales them."""

import av
import numpy as np
from jaxtyping import UInt8

from nl_jax.data.media.container import decode_frames, open_video
from nl_jax.data.media.failure import DecodeError, Source
from nl_jax.data.media.to_rgb import ToRgb

MULTIPLE = 32  # the stride of the backbone's last stage; sides of a padded batch are multiples of it


class SizeError(DecodeError):
    """An image has another size than the annotation file states."""


def read_image(source: Source, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image in full-range RGB, in the orientation of its annotations.

    A photograph can have an orientation tag. Some annotation tools turn the image as the tag asks, and others show the
    stored pixels. If the tag asks for a quarter turn, the size in the annotation file shows whether the tool turned
    the image. Otherwise the image is turned, as in OpenCV, detectron2 and mmdetection.

    Args:
      source: path of a file, or its bytes.
      width: width in the annotation file, in pixels.
      height: height in the annotation file, in pixels.

    Raises:
      SizeError: the image has another size.
      DecodeError: the file does not exist, or no whole image can be decoded.
    """
    return _read(source, width, height)[0]


def read_upright(source: Source) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image in full-range RGB, turned as its orientation tag asks. Of an animation it takes the first image.

    Args:
      source: as in `read_image`.

    Raises:
      DecodeError: as in `read_image`.
    """
    return ToRgb(None)(_first_frame(source))


def is_turned(source: Source, width: int, height: int) -> bool:
    """Returns whether the annotations use the stored pixels although the orientation tag asks for a quarter turn.

    Args:
      source: as in `read_image`.
      width: as in `read_image`.
      height: as in `read_image`.

    Raises:
      SizeError: as in `read_image`.
      DecodeError: as in `read_image`.
    """
    return _read(source, width, height)[1]


def _read(source: Source, width: int, height: int) -> tuple[np.ndarray, bool]:
    frame = _first_frame(source)
    image = ToRgb(None)(frame)
    if image.shape[:2] == (height, width):
        return image, False
    if (frame.height, frame.width) == (height, width):
        return ToRgb(None, upright=False)(frame), True
    raise SizeError(source, f"found {image.shape[1]} x {image.shape[0]} pixels, the annotations say {width} x {height}")


def _first_frame(source: Source) -> av.VideoFrame:
    damage: list[str] = []
    with open_video(source, image=True) as (container, stream):
        codec = stream.codec_context
        if codec.name == "mjpeg":
            # Without this option, half a JPEG decodes to an image with a grey half. Other decoders refuse half a file
            # without it. With it the decoder of TIFF also refuses every tag that it does not know.
            codec.options = {**codec.options, "err_detect": "explode"}
        frame = next(decode_frames(container, stream, damage=damage), None)
        if frame is None:
            raise DecodeError(source, f"no whole image can be decoded ({damage[0] if damage else 'it has no frame'})")
        return frame


def scaled_size(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """Returns the height and width of an image after scaling, in pixels.

    The shorter side becomes `short_side`, or less if the longer side would otherwise be longer than `long_side`.

    Args:
      height: height of the image, in pixels.
      width: width of the image, in pixels.
      short_side: the wanted shorter side, in pixels.
      long_side: the maximum longer side, in pixels.
    """
    scale = min(short_side / min(height, width), long_side / max(height, width))
    return tuple(max(1, int(side * scale + 0.5)) for side in (height, width))


def bucket_of(short_side: int, long_side: int) -> tuple[int, int]:
    """Returns the height and width of a padded batch of wide images. For tall images, exchange the two."""
    return tuple(-(-side // MULTIPLE) * MULTIPLE for side in (short_side, long_side))


def resize(image: UInt8[np.ndarray, "h w 3"], height: int, width: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Returns the image resized bilinearly to `height` x `width` pixels.

    If the image shrinks, each new pixel is a mean over all the pixels that it covers.
    """
    if image.shape[:2] == (height, width):
        return image
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return frame.reformat(width=width, height=height, interpolation="BILINEAR").to_ndarray()
