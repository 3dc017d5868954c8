"""Opening a video with PyAV, and its frames from where it stands to the end."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import av
from av.stream import Disposition

from nl_jax.data.failure import DecodeError, Source, words_of

# Libav happily draws a text file as a video of a terminal; these are the codecs that do so.
_TEXT_CODECS = frozenset({"ansi", "bintext", "idf", "xbin"})
# Larger pictures are refused before memory is allocated for them. A decoder keeps up to 17 frames of a video, and 8K is
# 8192 x 4320; of still pictures it keeps one, and the largest cameras have 200 million pixels.
MAX_PIXELS, MAX_PIXELS_OF_STILL = 36_000_000, 200_000_000
CORRUPT = "a picture is damaged"  # among damages, the word for a frame that libav marks so
# PyAV before version 19 raises an error on a title that is not UTF-8 unless it is told not to.
_METADATA = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}


@contextmanager
def open_video(path: Source) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container and its first video stream, closed at the end.

    Args:
        path: a file or its bytes.

    Raises:
        DecodeError: the file is missing, empty, not a video or without a video stream that can be decoded.
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
        container = open_container(file)
    except Exception as error:
        raise DecodeError(path, f"not a video that can be opened ({words_of(error)})") from error
    with container:
        yield container, first_video_stream(container, path)


def open_container(file, **options) -> av.container.InputContainer:
    """As `av.open`, for reading: neither a name nor a play list inside the file may reach out to the network."""
    limits = {"protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS_OF_STILL)}
    return av.open(file, options=limits, **_METADATA, **options)


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
        largest = f"{MAX_PIXELS_OF_STILL} pixels"
        raise DecodeError(path, f"its video stream states no frame size, or one of more than {largest}")
    most = MAX_PIXELS_OF_STILL if is_picture_format(container) else MAX_PIXELS
    if codec.width * codec.height > most:
        raise DecodeError(path, f"its pictures are {codec.width} x {codec.height}, valid are at most {most} pixels")
    codec.options = {"max_pixels": str(most)}
    stream.thread_type = "NONE"  # measured on 2 cores: threads gain nothing here, and loader processes share them
    return stream


def is_picture_format(container: av.container.InputContainer) -> bool:
    """Whether the container is that of a picture file, or of several behind each other."""
    return container.format.name.endswith("_pipe") or container.format.name == "image2"


def packets_of(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The packets of a stream that a decoder can be sent; the last, empty one asks for what it still has."""
    for packet in container.demux(stream):
        if packet.size or packet.dts is None:  # any other empty one says "repeat the last frame", which libav refuses
            yield packet


def decode_frames(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    *,
    packets: Iterator[av.Packet] | None = None,
    before: Callable[[av.Packet], None] = lambda packet: None,
    damage: list[str] | None = None,
) -> Iterator[av.VideoFrame]:
    """Frames from where the container stands to the end of the stream, without those from a damage to a key frame.

    A damage is a packet that cannot be decoded, or a frame that libav marks as corrupt: it has put something else in
    its place.

    Args:
        container: as `open_video` gives it.
        stream: its video stream.
        packets: of the stream, as `packets_of` gives them; by default those from where the container stands.
        before: is called with every packet before it is decoded, and may change it.
        damage: to which words for every damage are added.
    """
    damage = [] if damage is None else damage
    packets = packets_of(container, stream) if packets is None else packets
    decodable, shown = True, True  # whether packets, and the frames that come out, depend on no damage
    timed = True
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            if packet.size:
                decodable = decodable or packet.is_keyframe
                before(packet)
                if not decodable:
                    continue
                timed = timed and packet.pts is not None
            frames = packet.decode()
        except Exception as error:  # where it is the container that cannot be read, nothing comes after it
            damage.append(words_of(error))
            decodable = False
            continue
        for frame in frames:
            if frame.is_corrupt:
                damage.append(CORRUPT)
            shown = not frame.is_corrupt and (shown or frame.key_frame)
            if shown:
                if not timed:  # PyAV has made a time up
                    frame.pts = None
                yield frame
