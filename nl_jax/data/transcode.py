"""A whole video decoded once: what it really holds, and the same frames as a small H.264 file."""

import hashlib
import io
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from nl_jax.data.decode import DecodeError, VideoInfo, decode_frames, header_of, open_video
from nl_jax.data.to_rgb import ToRgb

# A key frame at least every 32 frames, so that a clip in the middle is near one. The same video must give the same
# bytes: x264's depend on its number of threads, and with its macroblock tree they differ from call to call.
X264 = {"crf": "20", "preset": "veryfast", "g": "32", "threads": "1", "x264-params": "mbtree=0"}
_TIME_BASE = Fraction(1, 90_000)  # in which the usual frame rates are whole numbers


@dataclass(frozen=True)
class Scan:
    """What a video really holds, beside what its header promises.

    Attributes:
        header: what the header promises.
        promised: how many frames the header promises, without those that an edit list hides; where it does not count
            them, those of its duration at the rate found, or of a damaged file at the rate that it states.
        times: seconds at which its frames are shown, from 0, ascending.
        rate: mean frames per second (0 if unknown).
        duration: seconds, the last frame included (0 if unknown).
        damage: libav's words for the first damage, and how often there is any; empty if there is none.
        image: whether the file is a still image.
        sha256: of the bytes of the file.
    """

    header: VideoInfo
    promised: int
    times: tuple[float, ...]
    rate: float
    duration: float
    damage: str
    image: bool
    sha256: str

    @property
    def frames(self) -> int:
        """How many frames really decode."""
        return len(self.times)


def scan(path: str | os.PathLike, on_frame: Callable[[av.VideoFrame], None] = lambda frame: None) -> Scan:
    """Decodes every frame.

    Raises:
        DecodeError: the file gives no frame at all.
    """
    damage: list[str] = []
    times = []
    with open_video(path) as (container, stream):
        header = header_of(container, stream)
        counted = stream.frames
        if "mp4" in container.format.name and header.duration and header.rate:
            counted = min(counted, round(header.duration * header.rate))
        image = container.format.name.endswith("_pipe") or container.format.name == "image2"
        for frame in decode_frames(container, stream, damage=damage):
            times.append(frame.time)
            on_frame(frame)
        if not times:
            raise DecodeError(path, f"no frame of its {stream.codec_context.name} video stream can be decoded")
    rate = header.rate
    known = None not in times and all(a < b for a, b in itertools.pairwise(times))
    if known and len(times) > 1:
        rate = (len(times) - 1) / (times[-1] - times[0])
    if known:
        times = [time - times[0] for time in times]
    else:
        times = [i / (rate or 25) for i in range(len(times))]
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    duration = len(times) / rate if rate else 0.0
    words = f"{damage[0]}, {len(damage)} times" if len(damage) > 1 else "".join(damage)
    promised = counted or round(header.duration * (header.rate if damage else rate))  # damage leaves gaps
    return Scan(header, promised, tuple(times), rate, duration, words, image, sha256)


def transcode(path: str | os.PathLike, short_side: int | None) -> tuple[Scan, bytes]:
    """The frames of a video, upright and without sound, as an MP4 of one H.264 stream of 8 bits (4:2:0, BT.601).

    Frame i of the result is frame i of the video and is shown when that one was, to 1/90000 of a second.

    Args:
        path: a video.
        short_side: pixels to which the shorter side is scaled down; smaller videos, and all with None, keep their size.
            Either side becomes even.

    Raises:
        DecodeError: the file gives no frame at all.
    """
    to_rgb = ToRgb(short_side, enlarge=False, multiple=2)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", options=X264)
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = _TIME_BASE
        start, last = None, -1

        def encode(frame: av.VideoFrame) -> None:
            nonlocal start, last
            image = to_rgb(frame)
            if last < 0:
                stream.height, stream.width = image.shape[:2]
            now = frame.time
            if start is None:
                start = now
            # Without a time, or one that does not ascend, a frame follows the last one at 25 frames per second.
            due = round((now - start) / _TIME_BASE) if now is not None and start is not None else -1
            last = due if due > last else last + (3600 if due < 0 else 1)
            copy = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            copy.pts, copy.time_base = last, _TIME_BASE
            container.mux(stream.encode(copy))

        found = scan(path, encode)
        container.mux(stream.encode(None))
    return found, file.getvalue()
