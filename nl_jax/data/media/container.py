"""Opens a video or an image with PyAV and decodes its frames from the present position to the end."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import av
from av.stream import Disposition

from nl_jax.data.media.failure import DecodeError, Source, words_of
from nl_jax.data.media.image_files import is_image, is_jpeg_in_tiff

# Codecs with which libav draws a text file as a video of a terminal.
_TEXT_CODECS = frozenset({"ansi", "bintext", "idf", "xbin"})
# Larger pictures are refused before libav allocates memory for them. A decoder keeps up to 17 frames of a video, and a
# frame of 8K is 8192 x 4320. A decoder keeps one frame of a picture, and the largest cameras have 200 million pixels.
MAX_PIXELS, MAX_PIXELS_OF_STILL = 36_000_000, 200_000_000
CORRUPT = "a picture is damaged"  # the damage of a frame that libav marks as corrupt
# Without this option PyAV before version 19 raises an error for a title that is not UTF-8.
_METADATA = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}


@contextmanager
def open_video(path: Source, *, image: bool = False) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Opens a video, yields the container and its first video stream, and closes the container.

    Args:
      path: a file or its bytes.
      image: whether the caller expects an image. Messages then say "an image", also if the file does not look like one.

    Raises:
      DecodeError: the file is missing, empty or neither a video nor an image, or it has no video stream that can be
        decoded.
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
        kind = "an image" if image or is_image(path) else "a video"
        raise DecodeError(path, f"not {kind} that can be opened ({words_of(error)})") from error
    with container:
        stream = first_video_stream(container, path)
        if stream.codec_context.name == "tiff" and is_jpeg_in_tiff(path):  # libav would decode it to black
            raise DecodeError(path, "its tiff image is compressed as JPEG, valid are other compressions, such as LZW")
        yield container, stream


def open_container(file, **options) -> av.container.InputContainer:
    """Opens a file for reading, like `av.open`. Names and playlists in the file cannot make libav use the network."""
    limits = {"protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS_OF_STILL)}
    return av.open(file, options=limits, **_METADATA, **options)


def first_video_stream(container: av.container.InputContainer, path: Source) -> av.VideoStream:
    """Returns the first video stream of an open container.

    Args:
      container: the container.
      path: the file, for messages.

    Raises:
      DecodeError: the container has no video stream that can be decoded.
    """
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
        more = f"more than {MAX_PIXELS_OF_STILL} pixels"
        if _holds_image(container):
            unknown = "of a kind without a decoder, such as an animated WebP"
            raise DecodeError(
                path, f"the size of the image cannot be read: the file is damaged, or {unknown}, or it has {more}"
            )
        raise DecodeError(path, f"its video stream states no frame size, or one of {more}")
    most = MAX_PIXELS_OF_STILL if is_picture_format(container) else MAX_PIXELS
    if codec.width * codec.height > most:
        raise DecodeError(path, f"its pictures are {codec.width} x {codec.height}, valid are at most {most} pixels")
    codec.options = {"max_pixels": str(most)}
    # Measured on 2 cores: threads gain nothing, and they compete with the loader's processes.
    stream.thread_type = "NONE"
    return stream


def is_picture_format(container: av.container.InputContainer) -> bool:
    """Returns whether the container is a picture file, or several picture files joined into one."""
    return container.format.name.endswith("_pipe") or container.format.name == "image2"


def no_frame(
    container: av.container.InputContainer, stream: av.VideoStream, path: Source, damage: list[str]
) -> DecodeError:
    """Returns the error for a file without a frame that can be decoded.

    Args:
      container: the open container.
      stream: its video stream.
      path: the file.
      damage: descriptions of all damages. The first one is given as the cause.
    """
    codec, why = stream.codec_context.name, f" ({damage[0]})" if damage else ""
    if _holds_image(container):
        return DecodeError(path, f"its {codec} image cannot be decoded{why}")
    return DecodeError(path, f"no frame of its {codec} video stream can be decoded{why}")


def _holds_image(container: av.container.InputContainer) -> bool:
    """Returns whether messages say "image" for this container, as they do for formats of animated images too."""
    return is_picture_format(container) or container.format.name in ("gif", "apng")


def packets_of(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """Yields the packets of a stream to send to the decoder. The last, empty packet flushes the decoder."""
    for packet in container.demux(stream):
        if packet.size or packet.dts is None:  # other empty packets mean "repeat the last frame", which libav refuses
            yield packet


def decode_frames(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    *,
    packets: Iterator[av.Packet] | None = None,
    before: Callable[[av.Packet], None] = lambda packet: None,
    damage: list[str] | None = None,
) -> Iterator[av.VideoFrame]:
    """Yields the frames from the container's position to the end of the stream, without damaged frames.

    A damage is a packet that cannot be decoded, or a frame that libav marks as corrupt because it had to invent a part
    of the frame. After a damage all frames up to the next key frame are left out.

    Args:
      container: an open container, as `open_video` yields it.
      stream: its video stream.
      packets: packets of the stream, as from `packets_of`. By default they are all packets from the container's
        position.
      before: a function that is called with every packet before it is decoded. It may change the packet.
      damage: a list to which a description of every damage is added.
    """
    damage = [] if damage is None else damage
    packets = packets_of(container, stream) if packets is None else packets
    decodable, shown = True, True  # whether the packets, and the decoded frames, are free of damage
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
        except Exception as error:  # if the container cannot be read, no packet follows
            damage.append(words_of(error))
            decodable = False
            continue
        for frame in frames:
            if frame.is_corrupt:
                damage.append(CORRUPT)
            shown = not frame.is_corrupt and (shown or frame.key_frame)
            if shown:
                if not timed:  # PyAV has invented a time
                    frame.pts = None
                yield frame
