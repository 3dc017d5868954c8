"""The index of a video: the number of its frames, and for each frame the packet at which its decoding can begin.

Reading the index decodes no frame. The header of most containers only promises a number of frames, a duration, or
nothing: a browser's recorder, a live stream or a camera writes the header before the video ends. The packets show the
frames that are really there. Each process reads the index of a file once and keeps it.

The presentation times of the packets give the numbers of their frames, if these times can be trusted. They cannot be
trusted in AVI with H.264 and B-frames, in files copied from AVI, in Windows Media and in joined streams. In these files
the times are in decoding order, or in no order. These files are decoded from the start, and the index keeps the frame
numbers that decoding finds.
"""

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np

from nl_jax.data.media.container import is_picture_format, open_video, packets_of
from nl_jax.data.media.failure import Source, failures_of
from nl_jax.data.media.picture_folder import files_of, frames_of_folder, is_folder

# Codecs in which every packet is one frame, so that the packets give the numbers of the frames. In other codecs some
# packets hold no frame or two frames (packed MPEG-4, repeated Theora frames), and only decoding gives the numbers.
_ONE_FRAME_A_PACKET = frozenset("h264 hevc av1 libdav1d vp8 vp9 mjpeg mpeg1video mpeg2video mpeg4".split())
_NOT_CODED = 16  # bytes; a smaller MPEG-4 packet may mean "no picture": XviD writes it after a packet of two frames
_LEAST_PACKET = 8  # minimum bytes of a frame, in a container that counts its frames
_CACHED_PACKETS = 2_000_000  # maximum packets of all cached indices, about 80 MB; each index counts as 100 more


@dataclass
class VideoIndex:
    """The index of a video, read from its packets.

    Attributes:
      frames: number of frames. For a damaged file it is the number that should be there.
      width: stored width in pixels, before any rotation.
      height: stored height in pixels, before any rotation.
      pixel_aspect: width of a pixel over its height.
      rate: mean frames per second (0 if unknown).
      stated_rate: mean frames per second in the header (0 if the header has none).
      stated_frames: number of frames in the header, without frames that an edit list hides. It is 0 if the header has
        no number, or a number too large for the size of the file.
      stated_duration: duration in the header, in seconds (0 if the header has none). If the header has no duration of
        the video stream, it is the duration of all streams.
      timed: whether the presentation times of the packets can be trusted.
      image: whether the video is a still picture.
      keys: (k,) indices of the key packets among all n packets.
      numbers: (n,) frame number of every packet, -1 if it has none; None if the times cannot be trusted.
      learnt: {key packet: frame number} as decoding found it, used if `numbers` is None.
      facts: (n, 3) position in the file, size in bytes and presentation time of every packet, which identify it.
      seek_times: (n,) time to which the container seeks to find the packet, in units of the stream's time base.
      first_size: stored width and height of the first frame; None until a caller needs it.
    """

    frames: int
    width: int
    height: int
    pixel_aspect: Fraction = Fraction(1)
    rate: float = 0.0
    stated_rate: float = 0.0
    stated_frames: int = 0
    stated_duration: float = 0.0
    timed: bool = False
    image: bool = False
    keys: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    numbers: np.ndarray | None = None
    learnt: dict[int, int] = field(default_factory=dict)
    facts: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), int))
    seek_times: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    first_size: tuple[int, int] | None = None

    def key_before(self, number: int) -> tuple[int, int] | None:
        """Returns (packet, its frame number) of the last key packet at or before a frame; None if none is known."""
        if self.numbers is not None:
            frames = self.numbers[self.keys]
            before = np.flatnonzero((frames >= 0) & (frames <= number))
            if not len(before):
                return None
            best = before[frames[before].argmax()]
            return int(self.keys[best]), int(frames[best])
        known = [(frame, packet) for packet, frame in list(self.learnt.items()) if frame <= number]
        return max(known)[::-1] if known else None


def index_of(path: Source) -> VideoIndex:
    """Returns the index of a video. A process reads the index again only if the file changes.

    Raises:
      DecodeError: the video is missing, empty, or not a video.
    """
    try:
        key = stamp(path)
    except OSError:
        return _read(path)  # raises an error that names the fault
    with _lock:
        if (index := _cache.find(key)) is not None:
            return index
    index = _read_folder(path) if is_folder(path) else _read(path)
    with _lock:
        _cache.keep(key, index)
    return index


def stamp(path: Source) -> tuple:
    """Returns a key that changes with the video: path, sizes and times of its files, or the hash of its bytes."""
    if isinstance(path, bytes):
        return "", 1, len(path), hash(path)
    stats = [os.stat(file) for file in files_of(path)]
    return os.fspath(path), len(stats), sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats)


class _Cache:
    """The most recently used indices."""

    def __init__(self):
        self._kept: OrderedDict[tuple, VideoIndex] = OrderedDict()
        self.weight = 0

    def find(self, key: tuple) -> VideoIndex | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def keep(self, key: tuple, index: VideoIndex) -> None:
        if key not in self._kept:
            self.weight += 100 + len(index.facts)
        self._kept[key] = index
        while len(self._kept) > 1 and self.weight > _CACHED_PACKETS:
            self.weight -= 100 + len(self._kept.popitem(last=False)[1].facts)


_cache = _Cache()
_lock = threading.Lock()


def mean_rate(stated: float, frames: int, seconds: Fraction | float) -> float:
    """Returns the mean frames per second.

    The result is the stated rate if it agrees with the times within their rounding to milliseconds. Otherwise it is
    (frames - 1) / seconds.

    Args:
      stated: frames per second in the header; 0 if it has none.
      frames: number of frames.
      seconds: time from the first frame to the last.
    """
    if frames < 2 or seconds <= 0:
        return stated
    return stated if stated and abs((frames - 1) / stated - seconds) < 0.0015 else float((frames - 1) / seconds)


def stated_rate(stream: av.VideoStream) -> float:
    """Returns the mean frames per second that the container states (0 if it states none)."""
    return float(stream.average_rate or stream.guessed_rate or 0)


def pixel_aspect_of(stream: av.VideoStream) -> Fraction:
    """Returns the width of a pixel over its height: 1 if the file states none, or a value outside 1/10 to 10."""
    aspect = stream.sample_aspect_ratio
    return Fraction(aspect) if aspect and Fraction(1, 10) <= aspect <= 10 else Fraction(1)


def _read_folder(path: Source) -> VideoIndex:
    files = frames_of_folder(path)
    first = _read(files[0])
    return VideoIndex(len(files), first.width, first.height, first.pixel_aspect)


def _read(path: Source) -> VideoIndex:
    with failures_of(path), open_video(path) as (container, stream):
        codec = stream.codec_context
        # These values are read before the packets, because reading packets changes them in some containers.
        stated_frames, stated_duration = _stated(container, stream)
        rows, broken = [], False
        packets = packets_of(container, stream)
        while True:
            try:
                packet = next(packets, None)
            except Exception:  # the rest of the file cannot be read
                broken = True
                break
            if packet is None:
                break
            if packet.size:  # keeps no packet itself: all packets together are the whole file
                rows.append(_row(packet, codec.name))
        table = np.array(rows, np.int64).reshape(-1, 7)
        pts, dts, position, size = table[:, :4].T
        shown, key, timed = table[:, 4:].T.astype(bool)
        places = np.flatnonzero(shown)
        times = pts[places]
        order = _order(times, codec.reorder_depth) if len(times) and timed.all() and not broken else None
        numbers = None
        # Frames that are shown before the first packet, or decoded before a key packet, do not decode.
        if order is not None and codec.name in _ONE_FRAME_A_PACKET and key[0] and times.min() >= pts[0]:
            if codec.name != "mpeg4" or size.min() > _NOT_CODED:
                numbers = np.full(len(pts), -1)
                numbers[places] = order
        seconds = Fraction(int(np.ptp(times))) * stream.time_base if order is not None else Fraction(0)
        return VideoIndex(
            frames=max(1, len(times)),
            width=codec.width,
            height=codec.height,
            pixel_aspect=pixel_aspect_of(stream),
            rate=mean_rate(stated_rate(stream), len(times), seconds),
            stated_rate=stated_rate(stream),
            stated_frames=stated_frames,
            stated_duration=stated_duration,
            timed=order is not None,
            image=is_picture_format(container) and len(times) <= 1,
            keys=np.flatnonzero(key),
            numbers=numbers,
            facts=np.stack([position, size, pts], axis=1),
            seek_times=dts,
        )


def _stated(container: av.container.InputContainer, stream: av.VideoStream) -> tuple[int, float]:
    """Returns the number of frames and the duration in seconds of the header; 0 if missing or impossible."""
    entries = stream.index_entries
    frames = stream.frames - sum(entry.is_discard for entry in entries)
    if frames < 0 or frames * _LEAST_PACKET > container.size:  # an AVI that was written to a pipe states 2**30
        return 0, 0.0
    if stream.duration is not None:
        return frames, max(0.0, float(stream.duration * stream.time_base))
    return frames, max(0.0, (container.duration or 0) / av.time_base)


def _row(packet: av.Packet, codec: str) -> tuple[int, ...]:
    """Returns (presentation time, time to seek to, position, size, shows a frame, is a key, has a time)."""
    hidden = packet.is_discard or (codec == "vp8" and not memoryview(packet)[0] & 0x10)
    timed = packet.pts is not None
    pts = packet.pts if timed else 0
    dts = packet.dts if packet.dts is not None else pts
    position = -1 if packet.pos is None else packet.pos
    return pts, dts, position, packet.size, not hidden, packet.is_keyframe, timed


def _order(times: np.ndarray, depth: int) -> np.ndarray | None:
    """Returns the place of each packet in presentation order, or None if the times contradict the codec.

    A codec with reordering depth `depth` shows a frame at most `depth` places before its place in decoding order, and
    it shows at least one frame before its place. If the times only ascend, they are decoding times.

    Args:
      times: (n,) presentation times of the packets in decoding order.
      depth: reordering depth of the codec.
    """
    numbers = np.empty(len(times), int)
    numbers[np.argsort(times)] = np.arange(len(times))
    early = np.arange(len(times)) - numbers
    if len(np.unique(times)) < len(times) or early.max() > depth or (len(times) > 1 and early.max() == 0 < depth):
        return None
    return numbers
