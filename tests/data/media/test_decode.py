import pickle

import av
import numpy as np
import pytest
from PIL import Image

from nl_jax.data.media import decode
from nl_jax.data.media.decode import VideoInfo, probe, read_frames
from nl_jax.data.media.failure import DecodeError, ShortVideoError
from nl_jax.errors import InputError

# name: ending, frames, size, options of the encoder
KINDS = {
    "h264, one key frame, B-frames": (".mp4", 60, (64, 48), {"g": 250, "bf": 3}),
    "h264, long groups, B-frames": (".mp4", 70, (64, 48), {"g": 30, "bf": 3, "sc_threshold": 0}),
    "h264, short groups": (".mp4", 60, (64, 48), {"g": 12, "bf": 2}),
    "h264, open groups": (".mkv", 60, (64, 48), {"g": 12, "x264-params": "open-gop=1:bframes=3"}),
    "h264, intra refresh": (".mkv", 60, (64, 48), {"g": 12, "x264-params": "intra-refresh=1:bframes=0"}),
    "h264, audio": (".mp4", 50, (64, 48), {"g": 12, "audio": True}),
    "h264, mpegts, seeks land late": (".ts", 60, (64, 48), {"g": 12, "bf": 2}),
    "h264, odd size": (".mp4", 40, (63, 47), {"g": 12, "pixels": "yuv444p"}),
    "hevc": (".mp4", 40, (64, 48), {"codec": "libx265", "x265-params": "keyint=12:log-level=none"}),
    "vp9": (".webm", 40, (64, 48), {"codec": "libvpx-vp9", "g": 12, "deadline": "realtime", "cpu-used": 8}),
    "vp8, hidden frames": (".webm", 60, (64, 48), {"codec": "libvpx", "g": 12, "auto-alt-ref": 1}),
    "mpeg4": (".avi", 60, (64, 48), {"codec": "mpeg4", "g": 12}),
    "mpeg4, audio, B-frames": (".avi", 50, (64, 48), {"codec": "mpeg4", "g": 12, "bf": 2, "audio": True}),
    "mpeg4, odd size": (".avi", 20, (65, 47), {"codec": "mpeg4"}),
    "mjpeg": (".avi", 20, (64, 48), {"codec": "mjpeg", "pixels": "yuvj420p"}),
}


def assert_same(images, expected):
    """Asserts that images are equal; for an odd height or width, that they are nearly equal.

    With an odd size, colours have fewer samples than pixels. Two programs of libav place these samples a quarter of a
    pixel apart.
    """
    height, width = expected.shape[1:3]
    if height % 2 or width % 2:
        assert images.shape == expected.shape and np.abs(images.astype(int) - expected).mean() < 1
    else:
        np.testing.assert_array_equal(images, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_frames_equal_a_full_decode(kind, tmp_path, pan, encode, decode_all, monkeypatch):
    ending, frames, size, how = KINDS[kind]
    path = encode(tmp_path / f"video{ending}", pan(frames, *size), **how)
    expected = decode_all(path)
    assert expected.shape == (frames, *size[::-1], 3)
    assert abs(probe(path).frames - frames) <= 1
    assert len(np.unique(expected.reshape(frames, -1), axis=0)) == frames, "frames must differ to be told apart"

    from_start = []
    real = decode._read_from_start
    monkeypatch.setattr(decode, "_read_from_start", lambda *a: from_start.append(a) or real(*a))
    for first in range(frames):
        assert_same(read_frames(path, [first]), expected[[first]])
    assert len(from_start) < frames, "a key frame before must be found"

    rng = np.random.default_rng(0)
    for _ in range(5):
        indices = rng.integers(rng.integers(frames), frames, size=8)  # in any order, with repeats
        assert_same(read_frames(path, indices), expected[indices])
    with pytest.raises(ShortVideoError) as error:
        read_frames(path, [frames - 1, frames])
    assert error.value.frames == frames


@pytest.mark.parametrize("first", [0, 500])
def test_a_variable_frame_rate_is_counted_in_frames(first, tmp_path, pan, encode, decode_all):
    times = first + np.cumsum(np.random.default_rng(0).integers(10, 200, 50))
    path = encode(tmp_path / "video.mkv", pan(50), times=times, g=10, bf=2)
    expected = decode_all(path)
    for indices in ([45], [12, 13, 30], [29, 7, 29], range(50)):
        np.testing.assert_array_equal(read_frames(path, indices), expected[indices])


def test_no_more_is_decoded_than_needed(tmp_path, pan, encode, monkeypatch):
    path = encode(tmp_path / "video.mp4", pan(80), g=20, bf=0, sc_threshold=0)
    seen = []
    real = decode.decode_frames
    monkeypatch.setattr(decode, "decode_frames", lambda *a, **k: (seen.append(f) or f for f in real(*a, **k)))
    read_frames(path, [46, 43])
    assert len(seen) == 7  # frames 40 to 46
    seen.clear()
    read_frames(path, [0, 9])
    assert len(seen) == 10


def test_frames_that_nothing_depends_on_are_not_decoded(tmp_path, pan, encode, decode_all, monkeypatch):
    path = encode(tmp_path / "video.mp4", pan(61), g=250, **{"x264-params": "bframes=1:b-adapt=0:scenecut=0"})
    expected = decode_all(path)
    seen = []
    real = decode.decode_frames
    monkeypatch.setattr(decode, "decode_frames", lambda *a, **k: (seen.append(f) or f for f in real(*a, **k)))
    even = np.arange(0, 61, 4)  # every other frame is a B-frame; none is needed
    np.testing.assert_array_equal(read_frames(path, even), expected[even])
    assert len(seen) == 31
    seen.clear()
    odd = even[:-1] + 1
    np.testing.assert_array_equal(read_frames(path, odd), expected[odd])
    assert len(seen) == 29 + 15  # frames 0, 2, .. 56 and 1, 5, .. 57


def test_a_seek_that_lands_late_is_noticed(tmp_path, pan, encode, decode_all, monkeypatch):
    path = encode(tmp_path / "video.mp4", pan(60), g=12, bf=2)
    expected = decode_all(path)
    real = decode.decode_frames
    monkeypatch.setattr(
        decode, "decode_frames", lambda *a, **k: (f for f in real(*a, **k) if f.pts == 0 or f.key_frame)
    )
    with pytest.raises(ShortVideoError):
        read_frames(path, [50])  # both ways miss frame 50, and neither returns a wrong frame
    monkeypatch.setattr(decode, "decode_frames", real)
    np.testing.assert_array_equal(read_frames(path, [50]), expected[[50]])


def test_a_gap_after_a_seek_is_noticed(tmp_path, pan, encode, decode_all, monkeypatch):
    path = encode(tmp_path / "video.mp4", pan(60), g=12, bf=0)
    expected = decode_all(path)
    real = decode.decode_frames

    def drop_the_third(*arguments, **options):
        for i, frame in enumerate(real(*arguments, **options)):
            sought = frame.pts > 0 if i == 0 else sought
            if not (sought and i == 2):
                yield frame

    monkeypatch.setattr(decode, "decode_frames", drop_the_third)
    np.testing.assert_array_equal(read_frames(path, [49, 50, 51]), expected[[49, 50, 51]])


@pytest.mark.parametrize("ending", [".mkv", ".mp4"])
def test_a_stream_without_its_first_key_frame(ending, tmp_path, pan, encode, decode_all):
    whole = encode(tmp_path / "whole.mkv", pan(60), g=12, bf=2)
    path = tmp_path / f"video{ending}"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in list(source.demux(video=0))[5:-1]:
            packet.stream = stream
            target.mux(packet)
    expected = decode_all(path)
    assert 30 < len(expected) < 60
    for first in range(len(expected)):
        np.testing.assert_array_equal(read_frames(path, [first]), expected[[first]])


@pytest.mark.parametrize(("size", "scaled"), [((90, 60), (45, 30)), ((50, 86), (30, 52)), ((30, 46), (30, 46))])
def test_short_side(size, scaled, tmp_path, pan, encode, decode_all):
    path = encode(tmp_path / "video.mp4", pan(10, *size))
    expected = decode_all(path, scaled)
    actual = read_frames(path, [3, 9], short_side=30)
    assert actual.dtype == np.uint8 and actual.shape == (2, *scaled[::-1], 3)
    assert np.abs(actual.astype(int) - expected[[3, 9]]).mean() < 0.7


CROPPED = [
    *({}, {"rotation": 90}, {"pixels": "yuv444p"}, {"pixels": "yuv422p"}, {"pixels": "yuv420p10le"}),
    *({"pixels": "gray"}, {"size": (63, 47), "pixels": "yuv444p"}, {"codec": "ffv1", "pixels": "yuv410p"}),
]


@pytest.mark.parametrize("how", CROPPED, ids=str)
@pytest.mark.parametrize("short_side", [None, 30, 55])
def test_a_crop_is_part_of_the_whole(how, short_side, tmp_path, pan, encode):
    how = dict(how)
    path = encode(tmp_path / "video.mkv", pan(4, *how.pop("size", (64, 48))), **how)
    whole = read_frames(path, range(4), short_side=short_side)
    for top, left, side in ((0, 0, 30), (3, 4, 20), (1, 7, 17), (8, 3, 22)):
        seen = []

        def crop(height, width, seen=seen, place=(top, left, side)):
            seen.append((height, width))
            return place

        part = read_frames(path, range(4), short_side=short_side, crop=crop)
        expected = whole[:, top : top + side, left : left + side]
        if whole.shape[1] % 2 or whole.shape[2] % 2:  # libav interpolates the colours of odd sizes differently
            assert part.shape == expected.shape and np.abs(part.astype(int) - expected).mean() < 2.5
        else:
            np.testing.assert_array_equal(part, expected)
        assert seen == [whole.shape[1:3]] and part.flags.c_contiguous


def test_colours_are_full_range_rgb(tmp_path, encode):
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]], np.uint8)
    path = encode(tmp_path / "video.mp4", np.broadcast_to(colours[:, None, None], (5, 32, 32, 3)), crf=1, g=1)
    frames = read_frames(path, range(5)).astype(int)
    np.testing.assert_allclose(frames, np.broadcast_to(colours[:, None, None], frames.shape), atol=6)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotated_videos_are_turned_upright(rotation, tmp_path, pan, encode, decode_all):
    path = encode(tmp_path / "video.mp4", pan(3, 64, 32), rotation=rotation)
    expected = np.rot90(decode_all(path), rotation // 90, axes=(1, 2))  # FFmpeg's angles are counter-clockwise
    np.testing.assert_array_equal(read_frames(path, range(3)), expected)


def test_probe(tmp_path, pan, encode):
    path = encode(tmp_path / "video.mp4", pan(50), rate=20)
    assert probe(path) == VideoInfo(frames=50, width=64, height=48, rate=20.0, duration=2.5)
    assert probe(encode(tmp_path / "video.mkv", pan(50), rate=20)).frames == 50  # no header has this count


@pytest.mark.parametrize("mode", ["P", "1", "L", "LA", "RGBA", "I;16", "CMYK"])
@pytest.mark.parametrize("ending", ["png", "bmp", "tif"])
def test_pictures_of_any_kind_can_be_scaled(mode, ending, tmp_path, pan):
    path = tmp_path / f"image.{ending}"
    picture = Image.fromarray(pan(1)[0]).convert(mode)
    try:
        picture.save(path)
    except OSError:
        pytest.skip(f"there is no {mode} in {ending}")
    expected = np.asarray(picture.convert("I" if mode == "I;16" else "RGB").resize((32, 24), Image.Resampling.BOX))
    found = read_frames(path, [0], short_side=24)[0].astype(int)
    if mode == "I;16":
        expected = (expected / 257)[..., None]
    assert found.shape == (24, 32, 3) and np.abs(found - expected).mean() < (30 if mode == "1" else 8)
    part = read_frames(path, [0], short_side=24, crop=lambda height, width: (3, 5, 15))[0]
    np.testing.assert_array_equal(part, found[3:18, 5:20])


@pytest.mark.parametrize("name", ["image.png", "image.jpg", "image of a pan, named.mp4"])
def test_an_image_is_a_video_of_one_frame(name, tmp_path, pan):
    path = tmp_path / name
    image = pan(1)[0]
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    written = tmp_path / ("image.jpg" if name.endswith(".jpg") else "image.png")
    frame.save(str(written))
    written.rename(path)
    assert (probe(path).frames, probe(path).width, probe(path).height) == (1, 64, 48)
    np.testing.assert_allclose(
        read_frames(path, [0, 0]).astype(int), [image] * 2, atol=60 if name.endswith(".jpg") else 0
    )
    with pytest.raises(ShortVideoError) as error:
        read_frames(path, [1])
    assert error.value.frames == 1


def test_a_broken_tail_is_the_end(tmp_path, pan, encode, decode_all, cut):
    for name, how in (("video.avi", {"codec": "mpeg4"}), ("video.ts", {}), ("video.mkv", {"g": 12})):
        path = cut(encode(tmp_path / name, pan(60, 160, 120), **how), 0.6)
        expected = decode_all(path)
        assert 5 < len(expected) < 55
        last = len(expected) - 1
        np.testing.assert_array_equal(read_frames(path, [0, last]), expected[[0, last]])
        np.testing.assert_array_equal(read_frames(path, [last]), expected[[last]])
        with pytest.raises(ShortVideoError) as error:
            read_frames(path, [3, 59])
        assert error.value.frames == len(expected)
        assert str(error.value) == f"{path}: the video ends after {len(expected)} frames"


def test_damage_in_the_middle_costs_its_own_frames(tmp_path, pan, encode):
    path = encode(tmp_path / "video.mkv", pan(30), codec="mjpeg", pixels="yuvj420p")
    whole = read_frames(path, range(30))
    with av.open(str(path)) as container:
        damaged = [bytes(p) for p in container.demux(video=0) if p.size][20]
    path.write_bytes(path.read_bytes().replace(damaged, bytes(len(damaged))))
    with pytest.raises(ShortVideoError) as error:
        read_frames(path, range(30))
    assert error.value.frames == 29
    np.testing.assert_array_equal(read_frames(path, range(29)), np.delete(whole, 20, axis=0))
    np.testing.assert_array_equal(read_frames(path, [29]), whole[[29]])  # its key frame lies behind the damage


def test_damage_costs_all_that_is_predicted_from_it(tmp_path, pan, encode):
    path = encode(tmp_path / "video.mkv", pan(48, 160, 120), g=12, bf=0)
    whole = np.delete(read_frames(path, range(48)), range(30, 36), axis=0)
    with av.open(str(path)) as container:
        damaged = [bytes(p) for p in container.demux(video=0) if p.size][30]
    path.write_bytes(path.read_bytes().replace(damaged, b"\xff" * len(damaged)))
    with pytest.raises(ShortVideoError) as error:
        read_frames(path, [0, 47])
    assert error.value.frames == 42
    np.testing.assert_array_equal(read_frames(path, range(42)), whole)
    np.testing.assert_array_equal(read_frames(path, [24, 41]), whole[[24, 41]])  # damage is noticed after a seek too


def _bad_files(folder, pan, encode, cut):
    text = "a text, not a video\n" * 50
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text(text)
    (folder / "text.txt").write_text(text)
    (folder / "folder.mp4").mkdir()
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "list.mp4").write_text("#EXTM3U\n#EXTINF:5\nhttp://127.0.0.1:9/video.ts\n")
    cut(encode(folder / "half.mp4", pan(30)), 0.5)
    sound = encode(folder / "both.mp4", pan(30), audio=True)
    with av.open(str(sound)) as source, av.open(str(folder / "sound.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.mp4", "no such file"),
        ("empty.mp4", "empty"),
        ("text.mp4", "not a video"),
        ("text.txt", "text, not a video"),
        ("folder.mp4", "the folder holds no pictures whose names differ in one number"),
        ("noise.mp4", "not a video"),
        ("list.mp4", "not a video"),
        ("half.mp4", "not a video"),
        ("sound.mp4", "no video stream"),
    ],
)
def test_what_is_no_video_says_why(name, reason, tmp_path, pan, encode, cut, capfd):
    _bad_files(tmp_path, pan, encode, cut)
    capfd.readouterr()
    for attempt in (probe, lambda path: read_frames(path, [0]), lambda path: read_frames(path, [7])):
        with pytest.raises(DecodeError, match=reason) as error:
            attempt(tmp_path / name)
        assert not isinstance(error.value, ShortVideoError)
        assert error.value.path == str(tmp_path / name)
        assert str(error.value) == f"{tmp_path / name}: {error.value.reason}"
    assert capfd.readouterr() == ("", ""), "libav must stay quiet"


def test_a_stream_without_a_frame_is_an_error(tmp_path, pan, encode):
    path = encode(tmp_path / "video.avi", pan(3), codec="mjpeg", pixels="yuvj420p")
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for position, size in packets:
        data[position + 8 : position + 8 + size] = bytes(size)
    path.write_bytes(data)
    with pytest.raises(DecodeError, match=r"video\.avi: no frame of its mjpeg"):
        read_frames(path, [0])


@pytest.mark.parametrize("indices", [[], [-1], np.array([0.5]), np.array([[0]])])
def test_wrong_indices(indices, tmp_path):
    with pytest.raises(InputError, match="indices"):
        read_frames(tmp_path / "video.mp4", indices)


def test_wrong_short_side(tmp_path):
    with pytest.raises(InputError, match="short_side: found 0"):
        read_frames(tmp_path / "video.mp4", [0], short_side=0)


@pytest.mark.parametrize("error", [DecodeError("a.mp4", "broken"), ShortVideoError("a.mp4", 7)])
def test_errors_survive_pickling(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
