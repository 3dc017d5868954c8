import hashlib
import io

import av
import numpy as np
import pytest

from nl_jax.data.media.decode import read_frames
from nl_jax.data.media.failure import DecodeError
from nl_jax.data.media.transcode import scan, transcode


def stored(video: bytes):
    """Returns the times, codec and number of streams of a file in memory, without the code of nl_jax."""
    with av.open(io.BytesIO(video)) as container:
        (stream,) = container.streams
        times = [frame.time for frame in container.decode(stream)]
        return times, stream.codec_context.name, stream.codec_context.pix_fmt, stream.frames


@pytest.mark.parametrize(
    "how",
    [
        {"g": 12, "bf": 2, "audio": True},
        {"rotation": 90},
        {"pixels": "yuv444p", "size": (63, 47)},
        {"times": np.cumsum(np.random.default_rng(0).integers(10, 200, 40))},
    ],
    ids=["audio", "turned", "odd size", "variable rate"],
)
def test_frame_i_stays_frame_i(how, tmp_path, pan, encode):
    how = dict(how)
    size = how.pop("size", (96, 64))
    path = encode(tmp_path / "video.mp4", pan(40, *size), crf=10, **how)
    found, video = transcode(path, None)
    original = read_frames(path, range(40)).astype(int)
    ours = read_frames(video, range(40)).astype(int)
    height, width = (2 * round(side / 2) for side in original.shape[1:3])
    assert ours.shape == (40, height, width, 3)
    distances = np.abs(original[:, None, :46, :62] - ours[None, :, :46, :62]).mean(axis=(2, 3, 4))
    np.testing.assert_array_equal(distances.argmin(axis=1), range(40))
    if size == (96, 64):
        assert np.diagonal(distances).max() < 6
    times, codec, pixels, frames = stored(video)
    assert (codec, pixels, frames) == ("h264", "yuv420p", 40)
    with av.open(str(path)) as container:
        expected = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.array(expected) - expected[0], atol=1e-4)
    np.testing.assert_allclose(found.times, times, atol=1e-4)
    assert found.rate == pytest.approx(39 / (expected[-1] - expected[0]))
    assert found.duration == pytest.approx(40 / found.rate)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not found.damage and not found.image


@pytest.mark.parametrize(("short_side", "size"), [(48, (72, 48)), (64, (96, 64)), (200, (96, 64)), (None, (96, 64))])
def test_only_large_videos_are_scaled(short_side, size, tmp_path, pan, encode):
    path = encode(tmp_path / "video.mp4", pan(4, 96, 64))
    _, video = transcode(path, short_side)
    assert read_frames(video, [3]).shape == (1, size[1], size[0], 3)


def test_a_key_frame_is_never_far(tmp_path, pan, encode):
    _, video = transcode(encode(tmp_path / "video.mp4", pan(100), g=250), None)
    with av.open(io.BytesIO(video)) as container:
        keys = [i for i, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert max(np.diff([*keys, 100])) <= 32


def test_the_same_file_gives_the_same_bytes(tmp_path, pan, encode):
    path = encode(tmp_path / "video.mp4", pan(60))
    assert len({transcode(path, side)[1] for _ in range(10) for side in (32, 36)}) == 2


def test_what_decodes_of_a_damaged_file(tmp_path, pan, encode, decode_all, cut):
    path = cut(encode(tmp_path / "video.avi", pan(60, 160, 120), codec="mpeg4"), 0.6)
    expected = len(decode_all(path))
    found, video = transcode(path, None)
    assert found.frames == expected < found.promised == 60
    assert len(stored(video)[0]) == expected


def test_what_is_no_video(tmp_path, pan, encode):
    (tmp_path / "text.mp4").write_text("text")
    with pytest.raises(DecodeError, match="not a video"):
        transcode(tmp_path / "text.mp4", 256)
    image = encode(tmp_path / "image.png", pan(1), codec="png", pixels="rgb24")
    assert (scan(image).image, scan(image).frames) == (True, 1)
