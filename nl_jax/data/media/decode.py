"""Decodes the frames of a video at given indices (PyAV), exactly, and gives a plain reason if it cannot.

A video is a file or a folder of numbered pictures, given by its path, or the bytes of a file.

Frame i of a video is the i-th frame that comes out when the file is decoded from its start (presentation order). If a
stream is damaged, the frames from the damage to the next key frame are left out: libav predicts them from uninitialized
memory, differently in every run. Frames that libav marks as corrupt are left out too. But if the key frame before
a clip lies behind the damage, the damage is not read, and the frames are numbered as in an undamaged file.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import av
import numpy as np
from av.video.frame import PictureType

from nl_jax.data.media.container import CORRUPT, decode_frames, no_frame, open_video, packets_of
from nl_jax.data.media.failure import ShortVideoError, Source, failures_of
from nl_jax.data.media.packets import VideoIndex, index_of, stated_rate
from nl_jax.data.media.picture_folder import frames_of_folder, is_folder
from nl_jax.data.media.to_rgb import ToRgb
from nl_jax.errors import InputError

# Maps (height, width) of scaled frames to (top, left, side) of the square to cut out.
Crop = Callable[[int, int], tuple[int, int, int]]


@dataclass(frozen=True)
class VideoInfo:
    """The facts about a video that are known without decoding it.

    Attributes:
      frames: number of frames (at least 1).
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
    """Returns the facts about a video from its header if it lists all frames (MP4, MOV), else from its packets.

    The video is not decoded. An image is a video of one frame.

    Raises:
      DecodeError: the file is missing, empty, not a video or without a video stream that can be decoded.
    """
    with failures_of(path):
        if not is_folder(path):
            with open_video(path) as (_, stream):
                rate, entries = stated_rate(stream), stream.index_entries
                listed = 0 < stream.frames == len(entries) and "mp4" in stream.container.format.name
                if listed and rate and stream.duration and not any(entry.is_discard for entry in entries):
                    size = stream.codec_context.width, stream.codec_context.height
                    return VideoInfo(stream.frames, *size, rate, float(stream.duration * stream.time_base))
        index = index_of(path)
        duration = index.frames / index.rate if index.rate and not index.image else 0.0
        return VideoInfo(index.frames, index.width, index.height, index.rate, duration)


def read_frames(
    path: Source,
    indices: Sequence[int] | np.ndarray,
    *,
    short_side: int | None = None,
    crop: Crop | None = None,
) -> np.ndarray:
    """Returns the frames at `indices`, in the order of `indices`. It decodes only the necessary part of the file.

    Args:
      path: a video, or an image (a video of one frame).
      indices: t frame numbers, from 0, in any order; a number may repeat.
      short_side: pixels of the shorter side, to which frames are scaled (bilinear, aspect kept); None keeps the size.
      crop: takes the height and width of the scaled frames, returns (top, left, side) of the square to cut out.

    Returns:
      uint8 (t, h, w, 3), contiguous, full-range RGB, with square pixels. Frames are turned by quarter turns and
      mirrored as the file asks. All have the shape of the first frame of the video: see `ToRgb`.

    Raises:
      ShortVideoError: the video ends before the highest index.
      DecodeError: the file gives no frame at all.
      InputError: `indices` is empty or holds a negative number, or `short_side` is below 1.
    """
    return read_crops(path, indices, [(short_side, crop)])[0]


def read_crops(
    path: Source, indices: Sequence[int] | np.ndarray, crops: Sequence[tuple[int | None, Crop | None]]
) -> list[np.ndarray]:
    """Returns the frames at `indices`, decoded once, and scaled and cropped in several ways.

    Args:
      path: as in `read_frames`.
      indices: as in `read_frames`.
      crops: (short_side, crop) of each way, as in `read_frames`.

    Returns:
      the array of `read_frames`, for each of `crops`.

    Raises:
      ShortVideoError, DecodeError, InputError: as in `read_frames`.
    """
    order = np.asarray(indices)
    if order.ndim != 1 or not order.size or order.dtype.kind not in "iu" or order.min() < 0:
        raise InputError(f"indices: found {indices!r}, valid is a non-empty list of integers from 0")
    for short_side, _ in crops:
        if short_side is not None and short_side < 1:
            raise InputError(f"short_side: found {short_side}, valid is None or an integer from 1")
    wanted, place = np.unique(order, return_inverse=True)
    places = {int(number): np.flatnonzero(place == i) for i, number in enumerate(wanted)}
    with failures_of(path):
        index = index_of(path)
        for read in _ways(path, index):
            clip = _Clip(places, [to_rgb_of(path, index, short_side, crop=crop) for short_side, crop in crops])
            if read(path, index, clip):
                return clip.images
    raise AssertionError("reading from the start gives the frames or an error")


class _Clip:
    """Collects the needed frames of a clip: one array of images for each way to make images of the frames."""

    def __init__(self, places: dict[int, np.ndarray], to_rgb: Sequence[ToRgb]):
        self.wanted = sorted(places)
        self.images: list[np.ndarray] = []
        self._places, self._to_rgb = places, to_rgb

    def __contains__(self, number: int) -> bool:
        return number in self._places

    def add(self, number: int, frame: av.VideoFrame) -> None:
        images = [to_rgb(frame) for to_rgb in self._to_rgb]
        if not self.images:
            count = sum(map(len, self._places.values()))
            # Frames that are not needed are never copied.
            self.images = [np.empty((count, *image.shape), np.uint8) for image in images]
        for array, image in zip(self.images, images, strict=True):
            array[self._places[number]] = image


def to_rgb_of(path: Source, index: VideoIndex, short_side: int | None, **options) -> ToRgb:
    """Returns the converter from frames of a video to images, all in the shape of its first frame."""
    return ToRgb(
        short_side, first_size=lambda frame: _first_size(path, index, frame), pixel_aspect=index.pixel_aspect, **options
    )


def _first_size(path: Source, index: VideoIndex, frame: av.VideoFrame) -> tuple[int, int]:
    """Returns (width, height) of the first frame, which is decoded only if `frame` differs from the stated size."""
    if index.first_size is None:
        if (frame.width, frame.height) == (index.width, index.height):
            return frame.width, frame.height
        first = next(all_frames(path))
        index.first_size = first.width, first.height
    return index.first_size


def all_frames(path: Source, damage: list[str] | None = None) -> Iterator[av.VideoFrame]:
    """Yields every frame of a video that decodes, from the first. Frames of a folder of pictures have no time.

    Raises:
      DecodeError: the video is missing, empty or not a video, no frame can be decoded, or a picture of a folder is not
        a picture.
    """
    if not is_folder(path):
        frame, damage = None, [] if damage is None else damage
        with open_video(path) as (container, stream):
            for frame in decode_frames(container, stream, damage=damage):
                yield frame
            if frame is None:
                raise no_frame(container, stream, path, damage)
        return
    for file in frames_of_folder(path):
        yield _picture(file)


def _picture(file: str) -> av.VideoFrame:
    damage: list[str] = []
    with failures_of(file), open_video(file) as (container, stream):
        frame = next(decode_frames(container, stream, damage=damage), None)
        if frame is None:
            raise no_frame(container, stream, file, damage)
        frame.pts = None
        return frame


def _ways(path: Source, index: VideoIndex) -> list[Callable[[Source, VideoIndex, _Clip], bool]]:
    """Returns functions that read frames, the best first. Each returns whether it found all; the last always does."""
    if is_folder(path):
        return [_read_pictures]
    return [_read_from_key_frame, _read_from_start]


def _read_pictures(path: Source, index: VideoIndex, clip: _Clip) -> bool:
    files = frames_of_folder(path)
    if clip.wanted[-1] >= len(files):
        raise ShortVideoError(path, len(files))
    for number in clip.wanted:
        clip.add(number, _picture(files[number]))
    return True


def _read_from_start(path: Source, index: VideoIndex, clip: _Clip) -> bool:
    """Counts every frame. If times are not reliable, it learns where later calls can begin to decode."""
    count, sent, damage = 0, itertools.count(), []
    keys = set(index.keys.tolist()) if index.numbers is None else set()

    def label(packet: av.Packet) -> None:
        if index.numbers is None:
            packet.pts = next(sent)  # becomes the time of the frame from this packet

    with open_video(path) as (container, stream):
        for frame in decode_frames(container, stream, before=label, damage=damage):
            if frame.pts in keys and frame.pict_type == PictureType.I and not damage:
                index.learnt[frame.pts] = count
            if count in clip:
                clip.add(count, frame)
            count += 1
            if count > clip.wanted[-1]:
                return True
        if count == 0:
            raise no_frame(container, stream, path, damage)
    raise ShortVideoError(path, count)


def _read_from_key_frame(path: Source, index: VideoIndex, clip: _Clip) -> bool:
    """Begins at the key frame before the first needed frame. Returns False if the file differs from the index."""
    key = index.key_before(clip.wanted[0])
    if key is None or not 0 < clip.wanted[-1] < index.frames:
        return False
    start, first = key
    numbers, facts = index.numbers, index.facts
    sent, damage = itertools.count(start), []
    with open_video(path) as (container, stream):
        packets = _seek(container, stream, index, start)
        if packets is None:
            return False

        def label(packet: av.Packet) -> None:
            here = next(sent)
            if here >= len(facts) or packet.size != facts[here, 1]:
                raise LookupError("packets after a seek are not the packets of the index")
            unneeded = numbers is not None and numbers[here] >= 0 and int(numbers[here]) not in clip
            stream.codec_context.skip_frame = "NONREF" if unneeded else "DEFAULT"
            packet.pts = here

        current = None
        for frame in decode_frames(container, stream, packets=packets, before=label, damage=damage):
            if current is None:
                if frame.pts != start:  # shown before the key frame, decoded after it: incomplete
                    continue
                if frame.pict_type != PictureType.I:
                    return False
                current, damage[:] = first, [words for words in damage if words != CORRUPT]
            elif numbers is None:
                current += 1
            else:
                previous, current = current, int(numbers[frame.pts])
                if current <= previous or any(number in clip for number in range(previous + 1, current)):
                    return False
            if damage:
                return False
            if current in clip:
                clip.add(current, frame)
            if current == clip.wanted[-1]:
                return True
    return False


def _seek(
    container: av.container.InputContainer, stream: av.VideoStream, index: VideoIndex, start: int
) -> Iterator[av.Packet] | None:
    """Returns the packets from number `start` on, after a seek by time or by byte; None if no seek works."""
    position, size, time = index.facts[start].tolist()
    alone = np.count_nonzero((index.facts[:, :2] == (position, size)).all(axis=1)) == 1
    earlier = index.keys[index.keys < start][-1:].tolist()
    targets = [(index.seek_times[place], False) for place in [start, *earlier]] + [(position, True)]
    for target, by_byte in targets:
        try:
            container.seek(int(target), stream=stream, unsupported_byte_offset=by_byte)
            packets = packets_of(container, stream)
            for packet in packets:
                if (packet.pos, packet.size) == (position, size) and (alone or packet.pts == time):
                    return itertools.chain([packet], packets)
                if packet.pos is not None and packet.pos > position:
                    break  # past `start`
        except (av.FFmpegError, OSError):  # the container cannot seek in this way
            continue
    return None
