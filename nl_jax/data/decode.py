"""Frames out of videos (PyAV): the frames at given indices, exact, and a plain reason when there are none.

A video is a file, given by its path, or the bytes of one.

Frame i of a video is the i-th frame that comes out when the file is decoded from its start (presentation order).
Where a stream is damaged, what follows up to the next key frame is left out: libav predicts it from memory that it has
never written, differently in every run. Only a clip whose key frame lies behind the damage is numbered as if there were
none: nobody has looked.
"""

import io
import os
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import av
import numpy as np
from av.stream import Disposition
from av.video.frame import PictureType

from nl_jax.data.to_rgb import ToRgb
from nl_jax.errors import InputError

# Libav happily draws a text file as a video of a terminal; these are the codecs that do so.
_TEXT_CODECS = frozenset({"ansi", "bintext", "idf", "xbin"})

# Codecs in which every packet is one shown frame, so that packet times number the frames without decoding them.
# Others (hidden VP8 frames, uncoded MPEG-4 frames, repeated Theora frames) are decoded from the start.
_SEEKABLE_CODECS = frozenset({"h264", "hevc", "vp9", "libdav1d", "av1"})

# What PyAV raises on damaged files: libav's own errors and, where streams come and go, errors of its own lists.
LIBAV_ERRORS = (av.FFmpegError, OSError, LookupError, ValueError)


Source = str | os.PathLike | bytes


class DecodeError(InputError):
    """A video that gives no frames.

    Attributes:
        path: the file; "video in memory" for bytes.
        reason: why, in plain words.
    """

    def __init__(self, path: Source, reason: str):
        path = "video in memory" if isinstance(path, bytes) else str(path)
        super().__init__(path, reason)  # both in `args`, so that it survives pickling between processes
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class ShortVideoError(DecodeError):
    """A video that ends before a frame asked for.

    Attributes:
        frames: how many frames really decode (at least 1).
    """

    def __init__(self, path: Source, frames: int):
        super().__init__(path, f"the video ends after {frames} frames")
        self.args = (self.path, frames)
        self.frames = frames


@dataclass(frozen=True)
class VideoInfo:
    """What the headers of a video claim.

    Attributes:
        frames: number of frames (at least 1; from the duration where the container does not count them).
        width: stored width in pixels, before any rotation.
        height: stored height in pixels, before any rotation.
        rate: mean frames per second (0 if unknown).
        duration: seconds (0 if unknown).
    """

    frames: int
    width: int
    height: int
    rate: float
    duration: float


def probe(path: Source) -> VideoInfo:
    """Reads the headers of a video, or of an image (a video of one frame).

    Raises:
        DecodeError: the file is missing, empty, not a video or without a video stream that can be decoded.
    """
    with open_video(path) as (container, stream):
        return header_of(container, stream)


def header_of(container: av.container.InputContainer, stream: av.VideoStream) -> VideoInfo:
    """What the headers of an open video claim."""
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    if stream.duration is not None and stream.time_base:
        duration = float(stream.duration * stream.time_base)
    else:
        duration = (container.duration or 0) / av.time_base
    duration = max(duration, 0.0)
    return VideoInfo(
        frames=stream.frames or max(1, round(duration * rate)),
        width=stream.codec_context.width,
        height=stream.codec_context.height,
        rate=rate,
        duration=duration,
    )


def read_frames(
    path: Source,
    indices: Sequence[int] | np.ndarray,
    *,
    short_side: int | None = None,
    crop: Callable[[int, int], tuple[int, int, int]] | None = None,
) -> np.ndarray:
    """Decodes the frames at `indices`, in that order, decoding no more of the file than they need.

    Args:
        path: a video, or an image (a video of one frame).
        indices: t frame numbers, from 0, in any order, repeats allowed.
        short_side: pixels of the shorter side, to which frames are scaled (bilinear, aspect kept); None keeps the size.
        crop: from the height and width of the scaled frames to (top, left, side) of the square that is wanted.

    Returns:
        uint8 (t, h, w, 3), contiguous, full-range RGB, turned and mirrored by quarter turns as the file asks.

    Raises:
        ShortVideoError: the video ends before the highest index.
        DecodeError: the file gives no frame at all.
        InputError: `indices` is empty or holds a negative number, or `short_side` is below 1.
    """
    order = np.asarray(indices)
    if order.ndim != 1 or not order.size or order.dtype.kind not in "iu" or order.min() < 0:
        raise InputError(f"indices: found {indices!r}, valid is a non-empty list of integers from 0")
    if short_side is not None and short_side < 1:
        raise InputError(f"short_side: found {short_side}, valid is None or an integer from 1")
    wanted, place = np.unique(order, return_inverse=True)
    wanted = wanted.tolist()
    images = _read_from_key_frame(path, wanted, ToRgb(short_side, crop=crop)) if wanted[-1] > 0 else None
    if images is None:
        images = _read_from_start(path, wanted, ToRgb(short_side, crop=crop))
    clip = np.empty((len(place), *images[0].shape), np.uint8)
    return np.stack([images[i] for i in place], out=clip)  # what is not wanted was never copied


@contextmanager
def open_video(path: Source) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container and its first video stream, closed at the end.

    Raises:
        DecodeError: as `probe`.
    """
    if isinstance(path, bytes):
        if not path:
            raise DecodeError(path, "there are no bytes")
        file = io.BytesIO(path)
    else:
        if not os.path.isfile(path):
            raise DecodeError(path, "not a regular file" if os.path.exists(path) else "there is no such file")
        if os.path.getsize(path) == 0:
            raise DecodeError(path, "the file is empty")
        file = f"file:{os.fspath(path)}"
    try:
        # `file:` and the whitelist: neither a name nor a play list inside the file may reach out to the network.
        container = av.open(file, options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except LIBAV_ERRORS as error:
        raise DecodeError(path, f"not a video that can be opened ({getattr(error, 'strerror', error)})") from error
    with container:
        yield container, first_video_stream(container, path)


def first_video_stream(container: av.container.InputContainer, path: Source) -> av.VideoStream:
    """That of an open container; raises DecodeError if it has none that can be decoded."""
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise DecodeError(path, "the file has no video stream")
    stream = streams[0]
    codec = stream.codec_context
    if codec is None:
        raise DecodeError(path, "there is no decoder for its video codec")
    if codec.name in _TEXT_CODECS:
        raise DecodeError(path, "the file is text, not a video")
    if not codec.width or not codec.height:
        raise DecodeError(path, "its video stream states no frame size")
    stream.thread_type = "NONE"  # measured on 2 cores: threads gain nothing here, and loader processes share them
    return stream


def decode_frames(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    *,
    unneeded: Container[int] = (),
    damage: list[str] | None = None,
) -> Iterator[av.VideoFrame]:
    """Frames from where the container stands to the end of the stream, without those from a damage to a key frame.

    Args:
        container: as `open_video` gives it.
        stream: its video stream.
        unneeded: times; frames that are shown then are left out unless another frame is predicted from them.
        damage: to which libav's words for every damage are added.
    """
    damage = [] if damage is None else damage
    packets = container.demux(stream)
    whole = True
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            last = packet.dts is None and packet.size == 0  # asks for what the decoder still has
            if packet.size == 0 and not last:  # "repeat the last frame", which libav refuses to be sent
                continue
            whole = whole or packet.is_keyframe
            if not whole and not last:
                continue
            stream.codec_context.skip_frame = "NONREF" if packet.pts in unneeded else "DEFAULT"
            frames = packet.decode()
        except LIBAV_ERRORS as error:  # where it is the container that cannot be read, nothing comes after it
            damage.append(str(getattr(error, "strerror", None) or error))
            whole = False
        else:
            yield from frames


def _read_from_start(path: Source, wanted: list[int], to_rgb: ToRgb) -> list[np.ndarray]:
    """The images at `wanted` (ascending), counting every frame from the first."""
    needed = set(wanted)
    images, count = [], 0
    with open_video(path) as (container, stream):
        for frame in decode_frames(container, stream):
            if count in needed:
                images.append(to_rgb(frame))
            count += 1
            if count > wanted[-1]:
                return images
        if count == 0:
            raise DecodeError(path, f"no frame of its {stream.codec_context.name} video stream can be decoded")
    raise ShortVideoError(path, count)


def _read_from_key_frame(path: Source, wanted: list[int], to_rgb: ToRgb) -> list[np.ndarray] | None:
    """The images at `wanted` (ascending), from the key frame before the first one; None where that is not certain.

    The times of all packets, which are read but not decoded, number the frames at any frame rate, constant or not.
    """
    needed = set(wanted)
    images = []
    with open_video(path) as (container, stream):
        if stream.codec_context.name not in _SEEKABLE_CODECS:
            return None
        try:
            # Not the packets themselves: together they are the whole file.
            packets = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.size and not p.is_discard]
        except LIBAV_ERRORS:
            return None
        if not packets or any(time is None for time, _ in packets):
            return None
        times = sorted(time for time, _ in packets)
        number = {time: i for i, time in enumerate(times)}
        keys = [number[time] for time, is_key in packets if is_key]
        # Times must tell frames apart, and the first packet must be a key frame and shown first, else what precedes
        # it is not decoded and the numbers are off.
        if len(number) < len(times) or packets[0][0] != times[0] or 0 not in keys or wanted[-1] >= len(times):
            return None
        key = max(k for k in keys if k <= wanted[0])
        unneeded = {time for time, i in number.items() if i not in needed}
        try:
            container.seek(times[key], stream=stream)
        except LIBAV_ERRORS:
            return None
        previous, damage = None, []
        for frame in decode_frames(container, stream, unneeded=unneeded, damage=damage):
            current = number.get(frame.pts)
            if damage:
                return None
            if previous is None:
                if frame.pict_type != PictureType.I:  # shown before the key frame, decoded after it: not whole
                    continue
                if current is None or current > wanted[0]:
                    return None
            elif current is None or current <= previous or not unneeded.issuperset(times[previous + 1 : current]):
                return None
            previous = current
            if current in needed:
                images.append(to_rgb(frame))
            if current == wanted[-1]:
                return images
    return None
