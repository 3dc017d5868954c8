"""Yields the clips of one video in one pass. The memory does not grow with the length of the video.

The clips of a file have the same frames as the test clips of `Videos.test_example`. The length of a stream, from a
camera or a pipe, is not known in advance, so its clips follow one another.
"""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import av
import numpy as np

from nl_jax.data.media.clock import Clock
from nl_jax.data.media.container import decode_frames, first_video_stream, open_container
from nl_jax.data.media.decode import all_frames, to_rgb_of
from nl_jax.data.media.failure import DecodeError, ShortVideoError, Source, failures_of, words_of
from nl_jax.data.media.packets import index_of, pixel_aspect_of, stated_rate
from nl_jax.data.media.to_rgb import ToRgb
from nl_jax.data.video.clips import test_indices

STDIN = "-"
# libav's names of cameras on Linux, macOS and Windows. lavfi makes synthetic pictures, for a
# machine without a camera (lavfi:testsrc2).
DEVICES = ("v4l2", "avfoundation", "dshow", "lavfi")


@dataclass(frozen=True)
class Clip:
    """A clip of a video.

    Attributes:
      number: index of the clip among the clips of the video, in order of time.
      seconds: time from the start of the video to the middle of the clip, in seconds.
      video: frames of the clip, uint8 (t, h, w, 3).
    """

    number: int
    seconds: float
    video: np.ndarray


def clips_of_file(
    path: Source,
    sample: Callable[[int, float], np.ndarray],
    short_side: int,
    promised: int | None = None,
) -> Iterator[Clip]:
    """Yields the clips of a file. Each clip comes as soon as its last frame is decoded.

    Args:
      path: a video, or an image (a video of one frame).
      sample: takes the number of frames and the frames per second, returns frame numbers (clips, t).
      short_side: pixels of the shorter side, to which frames are scaled.
      promised: the number of frames, if the caller knows it better than the index of the file.

    Raises:
      ShortVideoError: the file has fewer frames than promised. The clips within the existing frames come first. The
        error holds the true number of frames, which the caller can give as `promised`.
      DecodeError: the file gives no frame at all.
    """
    index = index_of(path)
    indices = sample(promised or index.frames, index.rate)
    # Clips that end first come first. A clip may pass the end of the video and continue from the start.
    waiting = sorted(range(len(indices)), key=lambda clip: indices[clip].max(), reverse=True)
    uses = dict(zip(*np.unique(indices, return_counts=True), strict=True))
    images: dict[int, np.ndarray] = {}
    clock, times = Clock(index.rate, timed=index.timed), []
    with failures_of(path):
        to_rgb = to_rgb_of(path, index, short_side)
        for count, frame in enumerate(all_frames(path)):
            times.append(clock(frame))
            if count in uses:
                images[count] = np.ascontiguousarray(to_rgb(frame))
            while waiting and indices[waiting[-1]].max() <= count:
                clip = waiting.pop()
                yield Clip(clip, _middle(indices[clip], times), np.stack([images[i] for i in indices[clip]]))
                for i in indices[clip]:
                    uses[i] -= 1
                    if not uses[i]:
                        images.pop(i, None)
            if not waiting:
                return
    raise ShortVideoError(path, len(times))


def is_stream(name: str) -> bool:
    """Returns whether `name` is standard input or a camera, not a file."""
    device = name.partition(":")[0] in DEVICES and ":" in name and not os.path.exists(name)
    return name == STDIN or name.startswith("/dev/video") or device


def clips_of_stream(
    name: str, *, frames: int, stride: int, every: float, short_side: int, seconds: float = 0.0
) -> Iterator[Clip]:
    """Yields clips of a camera or of standard input until the stream ends.

    Args:
      name: "-" for standard input, /dev/videoN, or DEVICE:NAME with one of DEVICES.
      frames: t, frames in a clip.
      stride: distance in frames between neighbours in a clip.
      every: seconds from one clip to the next. With 0 the clips follow one another.
      short_side: pixels of the shorter side, to which frames are scaled.
      seconds: time for which the stream is read, in seconds. 0 reads it without a limit.

    Raises:
      DecodeError: the stream cannot be opened or gives no frame at all. Damage after the first frame ends the stream.
      InputError: `frames` or `stride` is out of range.
    """
    with failures_of(_shown(name)), _open_stream(name) as (container, stream):
        rate = stated_rate(stream) or 25.0
        step = max(1, round(every * rate)) if every else frames * stride
        to_rgb, clock, count, number = ToRgb(short_side, pixel_aspect=pixel_aspect_of(stream)), Clock(rate), 0, 0
        started: list[tuple[int, float, list[np.ndarray]]] = []  # unfinished clips: (first frame, its time, frames)
        first: list[np.ndarray] = []  # all frames until the first clip is whole: a shorter stream loops
        for frame in decode_frames(container, stream):
            now = clock(frame)
            if seconds and now >= seconds:
                break
            if count % step == 0:
                started.append((count, now, []))
            if not number or any((count - start) % stride == 0 for start, _, _ in started):
                image = np.ascontiguousarray(to_rgb(frame))
                if not number:
                    first.append(image)
                for start, _, images in started:
                    if (count - start) % stride == 0:
                        images.append(image)
            if started and len(started[0][2]) == frames:
                _, began, images = started.pop(0)
                yield Clip(number, (began + now) / 2, np.stack(images))
                number, first = number + 1, []
            count += 1
        if not count:
            raise DecodeError(_shown(name), "it gives no frame" + _hint(name))
        if not number:
            indices = test_indices(count, frames, stride, 1)[0]
            yield Clip(0, now / 2, np.stack([first[i] for i in indices]))


@contextmanager
def _open_stream(name: str) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    form, _, device = name.partition(":")
    try:
        if name == STDIN:
            container = open_container(_Pipe(sys.stdin.buffer))
        elif name.startswith("/dev/"):
            container = av.open(name, format="v4l2")
        else:
            container = av.open(device, format=form)
    except Exception as error:
        raise DecodeError(_shown(name), f"it cannot be opened ({words_of(error)}){_hint(name)}") from error
    with container:
        yield container, first_video_stream(container, _shown(name))


class _Pipe:
    """A file that can only be read. libav would seek in a file that has a method `seek`."""

    def __init__(self, file: io.BufferedIOBase):
        self.read = file.read1 if hasattr(file, "read1") else file.read


def _shown(name: str) -> str:
    return "standard input" if name == STDIN else name


def _hint(name: str) -> str:
    return "; an MP4 can be piped only with its index first (-movflags faststart)" if name == STDIN else ""


def _middle(indices: np.ndarray, times: list[float]) -> float:
    """Returns the time of the middle of a clip in seconds.

    A clip that passes the end has the time of its first frame.
    """
    first, last = times[indices[0]], times[indices[-1]]
    return (first + last) / 2 if last >= first else first
