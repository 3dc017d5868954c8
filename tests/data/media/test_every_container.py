"""Seeking gives the same frame i as decoding from the start, for every codec in every container of FFmpeg."""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from nl_jax.data.media import decode
from nl_jax.data.media.decode import all_frames, probe, read_frames
from nl_jax.data.media.failure import DecodeError
from nl_jax.data.media.packets import index_of
from nl_jax.data.media.to_rgb import ToRgb
from nl_jax.data.media.transcode import scan

FRAMES = 50
CONTAINERS = "mp4 mov mkv webm avi ts flv wmv".split()
B_FRAMES = {"no B-frames": 0, "1 B-frame": 1, "3 B-frames": 3, "open groups": 3}


def _mpeg(codec, group):
    closed = [] if group == "open groups" or codec == "mpeg4" else ["-flags", "+cgop"]
    return ["-c:v", codec, "-b:v", "1M", "-g", "12", "-bf", B_FRAMES[group], "-sc_threshold", "1000000000", *closed]


def _x26(codec, group, rest):
    opened = int(group == "open groups")
    options = f"keyint=12:min-keyint=12:scenecut=0:b-adapt=0:bframes={B_FRAMES[group]}:open-gop={opened}{rest}"
    return ["-c:v", f"lib{codec}", f"-{codec}-params", options]


_HIDDEN = ["-auto-alt-ref", "1", "-lag-in-frames", "16"]  # makes reference frames that are never shown
ENCODERS = {
    **{f"h264, {group}": _x26("x264", group, "") for group in B_FRAMES},
    **{f"hevc, {group}": _x26("x265", group, ":log-level=none") for group in B_FRAMES},
    **{f"mpeg2, {group}": _mpeg("mpeg2video", group) for group in B_FRAMES},
    **{f"mpeg4, {group}": _mpeg("mpeg4", group) for group in B_FRAMES},
    "vp8": ["-c:v", "libvpx", "-b:v", "1M", "-g", "12"],
    "vp8, hidden frames": ["-c:v", "libvpx", "-b:v", "100k", "-g", "30", "-quality", "good", *_HIDDEN],
    "vp9": ["-c:v", "libvpx-vp9", "-g", "12", "-cpu-used", "5"],
    "vp9, hidden frames": ["-c:v", "libvpx-vp9", "-g", "12", "-cpu-used", "5", *_HIDDEN],
    "av1": ["-c:v", "libaom-av1", "-cpu-used", "8", "-g", "12", "-usage", "realtime"],
    "av1, hidden frames": ["-c:v", "libaom-av1", "-cpu-used", "8", "-g", "12", "-lag-in-frames", "19"],
    "mjpeg": ["-c:v", "mjpeg", "-pix_fmt", "yuvj420p"],
}
# FFmpeg writes them and cannot read them back.
UNREADABLE = {(codec, "ts") for codec in ("vp8", "vp9", "av1", "mjpeg")} | {("hevc", "avi")}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_frame_i_is_frame_i(encoder, tmp_path, monkeypatch):
    from_start = []
    real = decode._read_from_start
    monkeypatch.setattr(decode, "_read_from_start", lambda *a: from_start.append(a) or real(*a))
    tried = hidden = 0
    source = ["-f", "lavfi", "-i", f"testsrc2=rate=25:size=96x64:duration={FRAMES / 25}", "-pix_fmt", "yuv420p"]
    options, passes = ENCODERS[encoder], []
    if encoder == "vp8, hidden frames":  # FFmpeg writes them only in a second pass over the video
        passes = ["-passlogfile", tmp_path / "log"]
        assert not _encode(*source, *options, *passes, "-pass", "1", "-f", "null", "-")
        passes += ["-pass", "2"]
    for ending in CONTAINERS:
        path = tmp_path / f"video.{ending}"
        if _encode(*source, *options, *passes, path):
            continue  # the container does not hold the codec
        if (encoder.split(",")[0], ending) in UNREADABLE:
            for attempt in (lambda path: read_frames(path, [5]), scan):
                with pytest.raises(DecodeError):
                    attempt(path)
            continue
        tried += 1
        to_rgb = ToRgb(None)
        expected = np.stack([to_rgb(frame) for frame in all_frames(path)])
        assert len(expected) == FRAMES and len(np.unique(expected.reshape(FRAMES, -1), axis=0)) == FRAMES
        index = index_of(path)
        assert (index.frames, probe(path).frames) == (FRAMES, FRAMES), ending
        hidden += len(index.facts) - FRAMES
        if not hidden:  # AVI also gives hidden frames a time
            assert index.rate == 25, ending
        from_start.clear()
        asked = list(np.random.default_rng(0).permutation(FRAMES)[:, None])
        asked += [first + np.arange(8) * stride for first in (1, 9, 17) for stride in (1, 2, 3)]
        for indices in asked:
            found = read_frames(path, indices)
            assert np.array_equal(found, expected[indices]), f"{ending}: {list(indices)}"
        assert len(from_start) < len(asked) / 2, f"{ending}: a key frame before must be found"
    assert tried >= 3 and (hidden > 0) == (encoder == "vp8, hidden frames")


def _encode(*arguments) -> int:
    """Runs FFmpeg and returns its exit code."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *map(str, arguments)]
    return subprocess.run(command, capture_output=True).returncode
