"""Compares frames with the frames of another FFmpeg: the binary in the imageio-ffmpeg wheel."""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from nl_jax.data.media.decode import read_frames
from nl_jax.data.media.failure import ShortVideoError

SCALE = "scale=160:120"
X265 = ("-c:v", "libx265", "-x265-params", "log-level=none")
# name: ending, how the binary encodes it
KINDS = {
    "8 bits": (".mp4", ("-pix_fmt", "yuv420p")),
    "10 bits, h264": (".mp4", ("-pix_fmt", "yuv420p10le")),
    "10 bits, hevc": (".mp4", ("-pix_fmt", "yuv420p10le", *X265)),
    "full range": (".mp4", ("-vf", f"{SCALE}:out_range=full", "-pix_fmt", "yuvj420p")),
    "bt709": (".mp4", ("-vf", f"{SCALE}:out_color_matrix=bt709", "-colorspace", "bt709", "-pix_fmt", "yuv420p")),
    "bt709, full range": (
        ".mp4",
        ("-vf", f"{SCALE}:out_color_matrix=bt709:out_range=full", "-colorspace", "bt709", "-color_range", "pc"),
    ),
    "bt2020, 10 bits": (
        ".mp4",
        ("-vf", f"{SCALE}:out_color_matrix=bt2020", "-colorspace", "bt2020nc", "-pix_fmt", "yuv420p10le", *X265),
    ),
    "greyscale, h264": (".mp4", ("-pix_fmt", "gray")),
    "greyscale, ffv1": (".mkv", ("-pix_fmt", "gray", "-c:v", "ffv1")),
    "odd size, 4:2:0": (".avi", ("-vf", "scale=161:121", "-c:v", "mpeg4")),
    "odd size, 4:4:4": (".mp4", ("-vf", "scale=161:121", "-pix_fmt", "yuv444p")),
    "alpha": (".webm", ("-pix_fmt", "yuva420p", "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")),
    "variable rate": (".mp4", ("-vf", f"{SCALE},select='not(mod(n*n,7))+eq(mod(n,5),1)'", "-fps_mode", "vfr")),
    "metadata in Latin-1": (".mp4", ("-metadata", b"title=caf\xe9 \xff")),
    "metadata in Latin-1, mkv": (".mkv", ("-metadata", b"title=caf\xe9 \xff", "-metadata:s:v", b"handler=\xe9")),
    "metadata in Latin-1, avi": (".avi", ("-metadata", b"title=caf\xe9 \xff", "-c:v", "mpeg4")),
    "prores": (".mov", ("-c:v", "prores_ks")),
    "mpeg2, programme stream": (".mpg", ("-c:v", "mpeg2video")),
    "wmv": (".wmv", ("-c:v", "wmv2")),
    "flash": (".flv", ("-c:v", "flv")),
    "gif": (".gif", ()),
    "the start cut off by an edit list": (".mp4", ("-ss", "0.5", "-c", "copy")),
    **{f"turned by {r}": (".mp4", ("-display_rotation", str(r))) for r in (90, 180, 270)},
    "mirrored": (".mp4", ("-display_hflip",)),
    "upside down": (".mp4", ("-display_vflip",)),
    "turned and mirrored": (".mp4", ("-display_rotation", "90", "-display_hflip")),
}


def ffmpeg(*arguments) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str_or_bytes, arguments)]
    return subprocess.run(command, capture_output=True, check=True).stdout


def str_or_bytes(argument):
    return argument if isinstance(argument, bytes) else str(argument)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, pan, encode):
    return encode(tmp_path_factory.mktemp("whole") / "whole.mp4", pan(40, 160, 120), g=12)


@pytest.mark.parametrize("kind", KINDS)
def test_frames_equal_those_of_ffmpeg(kind, tmp_path, whole):
    ending, how = KINDS[kind]
    path = tmp_path / f"video{ending}"
    if how and how[0].startswith("-display"):
        ffmpeg(*how, "-i", whole, "-c", "copy", path)
    elif how and how[0] == "-ss":
        ffmpeg(*how[:2], "-i", whole, *how[2:], path)
    else:
        ffmpeg("-i", whole, *how, path)
    with pytest.raises(ShortVideoError) as error:
        read_frames(path, [1000])
    actual = read_frames(path, range(error.value.frames))
    raw = ffmpeg("-i", path, "-map", "0:V:0", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    expected = np.frombuffer(raw, np.uint8).reshape(-1, *actual.shape[1:])
    assert len(actual) == len(expected) >= 12
    assert len(np.unique(expected.reshape(len(expected), -1), axis=0)) > 10, "the frames must be told apart"
    difference = np.abs(actual.astype(int) - expected).mean(axis=(1, 2, 3))
    assert difference.max() < 1, "grey levels, on average over a frame"
    half = len(actual) // 2  # decoded from a key frame, if the container allows it
    np.testing.assert_array_equal(read_frames(path, [half, half + 2]), actual[[half, half + 2]])
    np.testing.assert_array_equal(read_frames(path.read_bytes(), [half, half + 2]), actual[[half, half + 2]])
