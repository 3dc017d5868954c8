"""Moving pictures of where a position of a clip looks, as GIF or MP4. Arrows and heat change with the frame."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from nl_jax.errors import InputError
from nl_jax.figures import panels
from nl_jax.figures.attention import Attention
from nl_jax.places import Place, written

ENDINGS = (".gif", ".mp4")


def draw_frames(
    video: UInt8[np.ndarray, "f y x 3"], attention: Attention, count: int = 20, title: str = ""
) -> Iterator[UInt8[np.ndarray, "Y X 3"]]:
    """Yields one picture for each frame of the clip. All pictures have the same height and width, and both are even.

    A picture has three parts, from left to right: the frame of the position, the current frame, and the weights of the
    keys in the current frame. Arrows lead from the position to its `count` strongest keys, if they lie in the current
    frame. The average over all positions has no arrows.

    Args:
      video: the clip before normalization.
      attention: the weights of one position, or their average.
      count: number of arrows in all frames together.
      title: the name of the clip, for the caption.
    """
    keys, frames = attention.weights.shape[0], len(video)
    strongest = attention.strongest(count) if attention.position is not None else []
    of = "averaged over all positions" if attention.position is None else f"of position {attention.position}"
    fixed = attention.position and panels.frame_of(attention.position[0], attention.shape[0], frames)
    for frame in range(frames):
        key = min(frame * keys // frames, keys - 1)
        figure, (start, shown, heat) = panels.row(video, (frame if fixed is None else fixed, frame, frame))
        image = panels.add_heat(heat, video[frame], attention.weights[key], attention)
        panels.add_bar(figure, image)
        if attention.position is not None:
            here = [(place, weight) for place, weight in strongest if place[0] == key]
            panels.add_arrows(figure, start, {panels.frame_of(key, keys, frames): shown}, video, attention, here)
            panels.mark(figure, start, video, attention)
        panels.caption(figure, title, f"{attention.block}: weights {of} of {attention.shape}")
        panels.legend(figure, attention, arrows=attention.position is not None)
        figure.canvas.draw()
        picture = np.asarray(figure.canvas.buffer_rgba())[..., :3]
        height, width = (size // 2 * 2 for size in picture.shape[:2])  # video codecs need even sizes
        yield np.ascontiguousarray(picture[:height, :width])


def save(pictures: Iterable[UInt8[np.ndarray, "Y X 3"]], path: Place, rate: float = 4.0) -> None:
    """Writes pictures as a GIF that repeats, or as an MP4 of H.264, as the ending of the path says.

    Args:
      pictures: the pictures, all of one size.
      path: path of the file.
      rate: pictures a second.

    Raises:
      InputError: for another ending.
    """
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"{path}: moving pictures end in one of {', '.join(ENDINGS)}")
    with written(path) as file:
        _save(pictures, file, rate)


def _save(pictures: Iterable[UInt8[np.ndarray, "Y X 3"]], path: Path, rate: float) -> None:
    if path.suffix.lower() == ".gif":
        # An octree keeps rare colours, such as the colour of negative weights. Pillow's default method loses them.
        tree = Image.Quantize.FASTOCTREE
        first, *rest = (Image.fromarray(picture).quantize(method=tree) for picture in pictures)
        first.save(path, save_all=True, append_images=rest, duration=round(1000 / rate), loop=0)
        return
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000), options={"crf": "18"})
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(pictures):
            if number == 0:
                stream.height, stream.width = picture.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
