"""Frames out of video files (PyAV): the frames at given indices, exact, and a plain reason when there are none.

Frame i of a video is the i-th frame that comes out when the file is decoded from its start (presentation order).
Damage in the middle of a stream is the end of the video.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.frame import PictureType
from av.video.reformatter import Interpolation, VideoReformatter

from nl_jax.errors import InputError

# Libav happily draws a text file as a video of a terminal; these are the codecs that do so.
_TEXT_CODECS = frozenset({"ansi", "bintext", "idf", "xbin"})

# Codecs in which every packet is one shown frame, so that packet times number the frames without decoding them.
# Others (hidden VP8 frames, uncoded MPEG-4 frames, repeated Theora frames) are decoded from the start.
_SEEKABLE_CODECS = frozenset({"h264", "hevc", "vp9", "libdav1d", "av1"})

# What PyAV raises on damaged files: libav's own errors and, where streams come and go, errors of its own lists.
_LIBAV_ERRORS = (av.FFmpegError, OSError, LookupError, ValueError)


class DecodeError(InputError):
    """A file that gives no frames.

    Attributes:
        path: the file.
        reason: why, in plain words.
    """

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(str(path), reason)  # both in `args`, so that it survives pickling between processes
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class ShortVideoError(DecodeError):
    """A video that ends before a frame asked for.

    Attributes:
        frames: how many frames really decode (at least 1).
    """

    def __init__(self, path: str | os.PathLike, frames: int):
        super().__init__(path, f"the video ends after {frames} frames")
        self.args = (str(path), frames)
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


def probe(path: str | os.PathLike) -> VideoInfo:
    """Reads the headers of a video, or of an image (a video of one frame).

    Raises:
        DecodeError: the file is missing, empty, not a video or without a video stream that can be decoded.
    """
    with _open(path) as (container, stream):
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
    path: str | os.PathLike, indices: Sequence[int] | np.ndarray, *, short_side: int | None = None
) -> np.ndarray:
    """Decodes the frames at `indices`, in that order, decoding no more of the file than they need.

    Args:
        path: a video, or an image (a video of one frame).
        indices: t frame numbers, from 0, in any order, repeats allowed.
        short_side: pixels of the shorter side, to which frames are scaled (bilinear, aspect kept); None keeps the size.

    Returns:
        uint8 (t, h, w, 3), full-range RGB, turned upright if the file asks for quarter turns.

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
    images = _read_from_key_frame(path, wanted, short_side) if wanted[0] > 0 else None
    if images is None:
        images = _read_from_start(path, wanted, short_side)
    return np.stack(images)[place]


@contextmanager
def _open(path: str | os.PathLike) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    file = Path(path)
    if not file.is_file():
        raise DecodeError(path, "not a regular file" if file.exists() else "there is no such file")
    if file.stat().st_size == 0:
        raise DecodeError(path, "the file is empty")
    try:
        # `file:` and the whitelist: neither a name nor a play list inside the file may reach out to the network.
        container = av.open(f"file:{file}", options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except _LIBAV_ERRORS as error:
        raise DecodeError(path, f"not a video that can be opened ({getattr(error, 'strerror', error)})") from error
    with container:
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
        yield container, stream


def _decode(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Frames from where the container stands to the end of the stream or its first damage."""
    try:
        for packet in container.demux(stream):
            if packet.size == 0 and packet.dts is not None:  # "repeat the last frame", which libav refuses to be sent
                continue
            yield from packet.decode()
    except _LIBAV_ERRORS:
        return


class _ToRgb:
    """Scales frames to one size, that of the first, and turns them upright."""

    def __init__(self, short_side: int | None):
        self._short_side = short_side
        self._size: tuple[int, int] | None = None
        self._reformatter = VideoReformatter()  # keeps its scaling tables between frames

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        if self._size is None:
            now = min(frame.width, frame.height)
            side = self._short_side or now
            self._size = round(frame.width * side / now), round(frame.height * side / now)
        width, height = self._size
        reformat = self._reformatter.reformat
        image = reformat(frame, width, height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1).to_ndarray()
        return np.rot90(image, round(frame.rotation / 90))


def _read_from_start(path: str | os.PathLike, wanted: list[int], short_side: int | None) -> list[np.ndarray]:
    """The images at `wanted` (ascending), counting every frame from the first."""
    to_rgb = _ToRgb(short_side)
    needed = set(wanted)
    images, count = [], 0
    with _open(path) as (container, stream):
        for frame in _decode(container, stream):
            if count in needed:
                images.append(to_rgb(frame))
            count += 1
            if count > wanted[-1]:
                return images
        if count == 0:
            raise DecodeError(path, f"no frame of its {stream.codec_context.name} video stream can be decoded")
    raise ShortVideoError(path, count)


def _read_from_key_frame(path: str | os.PathLike, wanted: list[int], short_side: int | None) -> list[np.ndarray] | None:
    """The images at `wanted` (ascending), from the key frame before the first one; None where that is not certain.

    The times of all packets, which are read but not decoded, number the frames at any frame rate, constant or not.
    """
    to_rgb = _ToRgb(short_side)
    needed = set(wanted)
    images = []
    with _open(path) as (container, stream):
        if stream.codec_context.name not in _SEEKABLE_CODECS:
            return None
        try:
            packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
        except _LIBAV_ERRORS:
            return None
        if not packets or any(packet.pts is None for packet in packets):
            return None
        times = sorted(packet.pts for packet in packets)
        number = {time: i for i, time in enumerate(times)}
        keys = [number[packet.pts] for packet in packets if packet.is_keyframe]
        # Times must tell frames apart, and the first packet must be a key frame and shown first, else what precedes
        # it is not decoded and the numbers are off.
        if len(number) < len(times) or packets[0].pts != times[0] or 0 not in keys or wanted[-1] >= len(times):
            return None
        key = max(k for k in keys if k <= wanted[0])
        if key == 0:
            return None
        try:
            container.seek(times[key], stream=stream)
        except _LIBAV_ERRORS:
            return None
        previous = None
        for frame in _decode(container, stream):
            current = number.get(frame.pts)
            if previous is None:
                if frame.pict_type != PictureType.I:  # shown before the key frame, decoded after it: not whole
                    continue
                if current is None or current > wanted[0]:
                    return None
            elif current != previous + 1:
                return None
            previous = current
            if current in needed:
                images.append(to_rgb(frame))
            if current == wanted[-1]:
                return images
    return None
