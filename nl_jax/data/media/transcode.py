"""Decodes a whole video once. Measures its real content, and writes its frames as a small H.264 file."""

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from nl_jax.data.media.clock import Clock
from nl_jax.data.media.container import CORRUPT, open_video
from nl_jax.data.media.decode import all_frames, to_rgb_of
from nl_jax.data.media.failure import DecodeError, failures_of, words_of
from nl_jax.data.media.packets import index_of, mean_rate
from nl_jax.data.media.picture_folder import files_of

# A key frame comes at least every 32 frames, so that every clip is near one. Without the deblocking filter and the
# arithmetic coding, decoding takes 0.6 of the processor time, and the file has 5 to 8% more bytes. The same video must
# give the same bytes. But x264's bytes depend on the number of threads, and its macroblock tree makes them differ
# between calls.
X264 = {
    **{"crf": "20", "preset": "veryfast", "tune": "fastdecode", "g": "32", "threads": "1"},
    "x264-params": "mbtree=0",
}
_TIME_BASE = Fraction(1, 90_000)  # seconds; at usual frame rates a frame lasts a whole number of units

# Containers whose header states the duration. For other containers libav guesses it from the last packets.
_STATING = ("matroska", "mov", "avi", "flv", "asf", "ogg")


@dataclass(frozen=True)
class Scan:
    """The real content of a video, and the content that its header and packets promise.

    Attributes:
      promised: number of frames that should be there. It is the number of packets, or more if the header states more.
      times: presentation times of the frames in seconds, from 0, ascending.
      rate: mean frames per second (0 if unknown).
      duration: in seconds, with the last frame (0 if unknown).
      stated_rate: frames per second in the header (0 if the header has none).
      stated_duration: duration of the video stream in the header, in seconds (0 if the header has none).
      damage: libav's description of the first damage, and the number of damages; empty if there is none.
      image: whether the file is a still image.
      sha256: SHA-256 of the bytes of the file.
    """

    promised: int
    times: tuple[float, ...]
    rate: float
    duration: float
    stated_rate: float
    stated_duration: float
    damage: str
    image: bool
    sha256: str

    @property
    def frames(self) -> int:
        """Returns the number of frames that decode."""
        return len(self.times)


def scan(
    path: str | os.PathLike, on_frame: Callable[[av.VideoFrame, float], None] = lambda frame, seconds: None
) -> Scan:
    """Decodes every frame of a video, and returns its content.

    Args:
      path: path of the video.
      on_frame: a function that is called with every frame and its time in seconds.

    Raises:
      DecodeError: no frame can be decoded.
    """
    damage: list[str] = []
    times = []
    with failures_of(path):
        index = index_of(path)
        clock = Clock(index.rate, timed=index.timed)
        for frame in all_frames(path, damage):
            times.append(clock(frame))
            if on_frame is not None:
                on_frame(frame, times[-1])
        rate = mean_rate(index.stated_rate, len(times), times[-1])
        duration = len(times) / rate if rate and not index.image else 0.0
        promised, stated = max(index.frames, index.stated_frames), index.stated_duration
        if stated and rate and not index.stated_frames:
            missing = stated - duration
            if missing > max(2 / rate, 0.05 * stated):
                stated = 0.0 if _other_streams_last(path, stated - missing / 2) else stated
                promised = max(promised, round(stated * rate))
        return Scan(
            promised=promised,
            times=tuple(times),
            rate=rate,
            duration=duration,
            stated_rate=index.stated_rate,
            stated_duration=stated,
            damage=_summary(damage),
            image=index.image,
            sha256=_sha256(path),
        )


def _other_streams_last(path: str | os.PathLike, seconds: float) -> bool:
    """Returns whether another stream continues after `seconds`, or the container states no duration."""
    with open_video(path) as (container, _):
        if not container.format.name.startswith(_STATING):
            return True
        start = (container.start_time or 0) / av.time_base
        ends = (float(packet.pts * packet.time_base) for packet in container.demux() if packet.pts is not None)
        return max(ends, default=0.0) - start > seconds


def _summary(damage: list[str]) -> str:
    pictures = damage.count(CORRUPT)
    others = [words for words in damage if words != CORRUPT]
    said = [f"{pictures} pictures are damaged" if pictures > 1 else CORRUPT] if pictures else []
    if others:
        said.append(f"{others[0]}, {len(others)} times" if len(others) > 1 else others[0])
    return "; ".join(said)


def _sha256(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file's bytes, or of the bytes of all files of a folder in order."""
    digest = hashlib.sha256()
    for name in files_of(path):
        with open(name, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def transcode(path: str | os.PathLike, short_side: int | None) -> tuple[Scan, bytes]:
    """Converts a video to an MP4 with one H.264 stream: upright frames, square pixels and no sound.

    The result has 8 bits (4:2:0, BT.601). Frame i of the result is frame i of the video. Its presentation time is the
    same, rounded to 1/90000 of a second.

    Args:
      path: path of the video.
      short_side: pixels to which the shorter side is scaled down. Smaller videos keep their size. None keeps the size
        of every video. Height and width become even.

    Returns:
      the content of the video, and the bytes of the MP4.

    Raises:
      DecodeError: no frame can be decoded, or H.264 or MP4 cannot hold the frames.
    """
    with failures_of(path):
        to_rgb = to_rgb_of(path, index_of(path), short_side, enlarge=False, multiple=2)
        file = io.BytesIO()
        with av.open(file, "w", format="mp4") as container:
            stream = container.add_stream("libx264", options=X264)
            stream.pix_fmt = "yuv420p"
            stream.time_base = stream.codec_context.time_base = _TIME_BASE
            last = -1

            def write(frame: av.VideoFrame | None) -> None:
                try:
                    container.mux(stream.encode(frame))
                except Exception as error:
                    size = f"{stream.width} x {stream.height}"
                    reason = f"its frames cannot be written as H.264 of {size} in an MP4 ({words_of(error)})"
                    raise DecodeError(path, reason) from error

            def encode(frame: av.VideoFrame, seconds: float) -> None:
                nonlocal last
                image = to_rgb(frame)
                if last < 0:
                    stream.height, stream.width = image.shape[:2]
                last = max(last + 1, round(seconds / _TIME_BASE))
                copy = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                copy.pts, copy.time_base = last, _TIME_BASE
                write(copy)

            found = scan(path, encode)
            write(None)
        return found, file.getvalue()
