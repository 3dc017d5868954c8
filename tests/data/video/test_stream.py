"""Clips of one pass equal clips that are read one by one; streams give the frames that they show, in order."""

import itertools
import types
import weakref
from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest

from nl_jax.data.media.decode import read_frames
from nl_jax.data.media.failure import DecodeError, ShortVideoError
from nl_jax.data.video import stream
from nl_jax.data.video.clips import test_indices as indices_of
from nl_jax.data.video.stream import clips_of_file, clips_of_stream, is_stream


@pytest.mark.parametrize("ending", ["mp4", "avi"])
@pytest.mark.parametrize("starts, stride", [("paper", 2), ("caffe2", 3), ("slowfast", 2), ("paper", 20)])
def test_clips_of_a_file_are_its_frames(video_folder, ending, starts, stride):
    path = video_folder / "flower" / f"clip.{ending}"
    found = sorted(
        clips_of_file(path, lambda n, rate: indices_of(n, 4, stride, 5, starts, rate), 48), key=lambda clip: clip.number
    )
    expected = indices_of(30, 4, stride, 5, starts, 25.0)
    assert [clip.number for clip in found] == list(range(5))
    for clip, indices in zip(found, expected, strict=True):
        np.testing.assert_array_equal(clip.video, read_frames(path, indices, short_side=48))
    assert all(a.seconds <= b.seconds for a, b in itertools.pairwise(found)) or starts == "caffe2"


def test_frames_are_forgotten_once_no_clip_needs_them(video_folder, monkeypatch):
    """Of 30 frames, memory holds at most as many as clips need. The test counts the arrays that are alive."""
    alive = []

    class Frame(np.ndarray):
        pass

    def counted(array):
        frame = np.array(array).view(Frame)
        alive.append(weakref.ref(frame))
        return frame

    monkeypatch.setattr(stream.np, "ascontiguousarray", counted)
    most = 0
    for _ in clips_of_file(video_folder / "flower" / "clip.mp4", lambda n, _: indices_of(n, 4, 1, 8), 48):
        most = max(most, sum(reference() is not None for reference in alive))
    assert len(alive) >= 28 and most <= 8


def test_a_file_with_fewer_frames_than_promised_says_how_many(video_folder):
    path = video_folder / "flower" / "clip.mp4"
    with pytest.raises(ShortVideoError) as error:
        list(clips_of_file(path, lambda n, _: indices_of(n, 4, 2, 3), 48, promised=40))
    assert error.value.frames == 30


@pytest.fixture
def pipe(monkeypatch):
    """Returns a function: pipe(path) makes the bytes of a file standard input."""
    with ExitStack() as files:

        def put(path):
            file = files.enter_context(path.open("rb"))
            monkeypatch.setattr(stream.sys, "stdin", types.SimpleNamespace(buffer=file))

        yield put


def test_clips_of_standard_input_follow_one_another(video_folder, pipe):
    path = video_folder / "pagoda" / "clip.avi"
    pipe(path)
    found = list(clips_of_stream("-", frames=4, stride=2, every=0.0, short_side=48))
    assert [clip.number for clip in found] == [0, 1, 2]
    for clip in found:
        frames = clip.number * 8 + np.arange(4) * 2
        np.testing.assert_array_equal(clip.video, read_frames(path, frames, short_side=48))
        assert clip.seconds == pytest.approx((clip.number * 8 + 3) / 25)
    pipe(path)
    overlapping = list(clips_of_stream("-", frames=4, stride=2, every=0.12, short_side=48))
    assert len(overlapping) == 8, "one for every third frame"
    np.testing.assert_array_equal(overlapping[1].video, read_frames(path, 3 + np.arange(4) * 2, short_side=48))


def test_a_stream_that_is_shorter_than_a_clip_loops(video_folder, pipe):
    path = video_folder / "pagoda" / "clip.avi"
    pipe(path)
    (clip,) = clips_of_stream("-", frames=8, stride=5, every=0.0, short_side=48)
    np.testing.assert_array_equal(clip.video, read_frames(path, np.arange(8) * 5 % 30, short_side=48))


def test_a_camera_is_left_after_the_seconds_asked_for():
    source = partial(clips_of_stream, "lavfi:testsrc2=rate=10:size=64x48", frames=4, stride=2, every=0.0, short_side=24)
    found = list(source(seconds=2.4))
    assert len(found) == 3 and found[0].video.shape == (4, 24, 32, 3)
    assert not np.array_equal(found[0].video, found[1].video)


def test_what_gives_no_frames_is_named(tmp_path, pipe):
    with pytest.raises(DecodeError, match="/dev/video99: it cannot be opened"):
        list(clips_of_stream("/dev/video99", frames=4, stride=2, every=0.0, short_side=24))
    (tmp_path / "text").write_text("no video " * 100)
    pipe(tmp_path / "text")
    with pytest.raises(DecodeError, match=r"standard input: .*index first"):
        list(clips_of_stream("-", frames=4, stride=2, every=0.0, short_side=24))


def test_what_is_a_stream_by_its_name():
    assert all(map(is_stream, ("-", "/dev/video0", "v4l2:/dev/video1", "avfoundation:0", "dshow:video=A camera")))
    assert not any(map(is_stream, ("video.mp4", "C:video.mp4", "lavfi", "./-")))
