"""The index of a video: how many frames it has, and from which packet each can be decoded, without decoding any.

The headers of most containers only promise a number of frames, or a duration, or nothing: a browser's recorder, a live
stream or a camera writes them before it knows. The packets are what is there. An index is read once for a file in a
process, and kept.

The numbers of frames follow from the presentation times of the packets, where these can be trusted. They cannot in AVI
with H.264 and B-frames, in files copied from there, in Windows Media, in joined streams: there they are in decoding
order, or not in any. What was learnt in decoding such a file from its start is kept in its index.
"""

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np

from nl_jax.data.container import is_picture_format, open_video, packets_of
from nl_jax.data.failure import Source, failures_of
from nl_jax.data.picture_folder import files_of, frames_of_folder, is_folder

# Codecs in which a packet is a frame, so that packets number the frames. In others some packets hold no frame, or two
# (packed MPEG-4, repeated Theora frames); they are numbered by decoding.
_ONE_FRAME_A_PACKET = frozenset("h264 hevc av1 libdav1d vp8 vp9 mjpeg mpeg1video mpeg2video mpeg4".split())
_NOT_CODED = 16  # bytes; a smaller MPEG-4 packet may say "no picture", as XviD writes it after a packet of two
_LEAST_PACKET = 8  # bytes that a frame takes at least in a container that counts them
_CACHED_PACKETS = 2_000_000  # of all indices together, some 80 MB; an index by itself counts as 100


@dataclass
class VideoIndex:
    """What the packets of a video say.

    Attributes:
        frames: number of frames; of a damaged file, how many there should be.
        width: stored width in pixels, before any rotation.
        height: stored height in pixels, before any rotation.
        pixel_aspect: width of a pixel over its height.
        rate: mean frames per second (0 if unknown).
        stated_rate: mean frames per second as the header says (0 if it does not).
        stated_frames: how many frames the header counts, those that an edit list hides left out (0 if it does not
            count, or counts more than the file has room for).
        stated_duration: seconds as the header says (0 if it does not); of all streams if it does not tell them apart.
        timed: whether the times of the packets are those at which frames are shown.
        image: whether the video is a still picture.
        keys: numbers of the key packets among all packets.
        numbers: of every packet the number of its frame, -1 if it has none; None where times cannot be trusted.
        learnt: by key packet the number of its frame, as decoding found it, where `numbers` is None.
        facts: of every packet (position in the file, size, presentation time), which tell packets apart.
        seek_times: of every packet the time to which the container seeks for it.
        first_size: stored width and height of the first frame, once it was asked for.
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
        """(packet, number of its frame) of the last key packet at or before a frame; None if none is known."""
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
    """The index of a video, read once in a process as long as the file does not change.

    Raises:
        DecodeError: the video is missing, empty, or not a video.
    """
    try:
        key = stamp(path)
    except OSError:
        return _read(path)  # says what is wrong
    with _lock:
        if (index := _cache.find(key)) is not None:
            return index
    index = _read_folder(path) if is_folder(path) else _read(path)
    with _lock:
        _cache.keep(key, index)
    return index


def stamp(path: Source) -> tuple:
    """What changes when a video does: its path, and the sizes and times of its files; of bytes, their hash."""
    if isinstance(path, bytes):
        return "", 1, len(path), hash(path)
    stats = [os.stat(file) for file in files_of(path)]
    return os.fspath(path), len(stats), sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats)


class _Cache:
    """The indices that were used last."""

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
    """Frames per second of frames of which the last is shown so many seconds after the first.

    The rate that the container states, if it gives these times but for their rounding to milliseconds.
    """
    if frames < 2 or seconds <= 0:
        return stated
    return stated if stated and abs((frames - 1) / stated - seconds) < 0.0015 else float((frames - 1) / seconds)


def stated_rate(stream: av.VideoStream) -> float:
    """Mean frames per second as the container says (0 if it does not)."""
    return float(stream.average_rate or stream.guessed_rate or 0)


def pixel_aspect_of(stream: av.VideoStream) -> Fraction:
    """Width of a pixel over its height; square where the file does not say, or says what no pixel is."""
    aspect = stream.sample_aspect_ratio
    return Fraction(aspect) if aspect and Fraction(1, 10) <= aspect <= 10 else Fraction(1)


def _read_folder(path: Source) -> VideoIndex:
    files = frames_of_folder(path)
    first = _read(files[0])
    return VideoIndex(len(files), first.width, first.height, first.pixel_aspect)


def _read(path: Source) -> VideoIndex:
    with failures_of(path), open_video(path) as (container, stream):
        codec = stream.codec_context
        stated_frames, stated_duration = _stated(container, stream)  # some containers change their mind in reading
        rows, broken = [], False
        packets = packets_of(container, stream)
        while True:
            try:
                packet = next(packets, None)
            except Exception:  # what comes after it cannot be read
                broken = True
                break
            if packet is None:
                break
            if packet.size:  # not the packets themselves: together they are the whole file
                rows.append(_row(packet, codec.name))
        table = np.array(rows, np.int64).reshape(-1, 7)
        pts, dts, position, size = table[:, :4].T
        shown, key, timed = table[:, 4:].T.astype(bool)
        places = np.flatnonzero(shown)
        times = pts[places]
        order = _order(times, codec.reorder_depth) if len(times) and timed.all() and not broken else None
        numbers = None
        # What is shown before the first packet, or decoded before a key packet, does not decode.
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
    """How many frames, and how many seconds, the header states; 0 for what it does not, or what cannot be."""
    entries = stream.index_entries
    frames = stream.frames - sum(entry.is_discard for entry in entries)
    if frames < 0 or frames * _LEAST_PACKET > container.size:  # an AVI that is written to a pipe counts 2**30
        return 0, 0.0
    if stream.duration is not None:
        return frames, max(0.0, float(stream.duration * stream.time_base))
    return frames, max(0.0, (container.duration or 0) / av.time_base)


def _row(packet: av.Packet, codec: str) -> tuple[int, ...]:
    """(presentation time, time to seek to, position, size, whether it shows a frame, is a key and has a time)."""
    hidden = packet.is_discard or (codec == "vp8" and not memoryview(packet)[0] & 0x10)
    timed = packet.pts is not None
    pts = packet.pts if timed else 0
    dts = packet.dts if packet.dts is not None else pts
    position = -1 if packet.pos is None else packet.pos
    return pts, dts, position, packet.size, not hidden, packet.is_keyframe, timed


def _order(times: np.ndarray, depth: int) -> np.ndarray | None:
    """Of packets in decoding order the number of each in presentation order, or None where times contradict the codec.

    A codec that reorders frames by `depth` shows a frame at most so many places before its place in decoding order,
    and some frame before it: times that only ascend are then times of decoding.
    """
    numbers = np.empty(len(times), int)
    numbers[np.argsort(times)] = np.arange(len(times))
    early = np.arange(len(times)) - numbers
    if len(np.unique(times)) < len(times) or early.max() > depth or (len(times) > 1 and early.max() == 0 < depth):
        return None
    return numbers
