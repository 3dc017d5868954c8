"""Inputs of real users give the right frames: live recordings, turned phones, joined files, cameras' pictures.

Each input goes through everything that reads videos: probe, training and test clips, prediction, check and preparation.
"""

import gc
import io
import subprocess

import av
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from nl_jax.data.media import packets
from nl_jax.data.media.decode import all_frames, probe, read_crops, read_frames, to_rgb_of
from nl_jax.data.media.failure import DecodeError
from nl_jax.data.media.packets import index_of
from nl_jax.data.media.transcode import transcode
from nl_jax.data.records.make import Preparation
from nl_jax.data.sources.listing import Item
from nl_jax.data.sources.own import own_videos
from nl_jax.data.video import videos
from nl_jax.data.video.check import Inspection, check_copy
from nl_jax.data.video.clips import test_indices as clip_indices
from nl_jax.data.video.folder import VideoFolder
from nl_jax.data.video.stream import clips_of_file
from nl_jax.errors import InputError

OPTIONS = dict(frames=8, stride=2, crop=32, short_side=(32, 40), test_crop=32, test_short_side=32, num_clips=10)
H264 = ("-c:v", "libx264", "-g", "30", "-pix_fmt", "yuv420p")


def ffmpeg(*arguments, output=None) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-y", *map(str, arguments)]
    if output is None:
        subprocess.run(command, check=True)
    else:  # through a pipe, so that the header cannot be completed at the end
        output.write_bytes(subprocess.run([*command, "pipe:1"], check=True, capture_output=True).stdout)


def picture(seconds: float, rate: int = 30, size: str = "96x64") -> tuple[str, ...]:
    return "-f", "lavfi", "-i", f"testsrc2=d={seconds}:r={rate}:s={size}"


def fragmented(path):
    ffmpeg(*picture(4), *H264, "-movflags", "frag_keyframe", path)


def joined(path):
    ffmpeg(*picture(2), *H264, "-f", "mpegts", output=path)
    path.write_bytes(path.read_bytes() * 2)


def from_5_to_55_a_second(path):
    times = "select='if(lt(t,2),not(mod(n,11)),1)'"
    ffmpeg(*picture(4, rate=55), "-vf", times, "-fps_mode", "vfr", *H264, path)


def copied_from_avi(path):
    avi = path.with_name("first.avi_")
    ffmpeg(*picture(4, rate=25), *H264, "-bf", "1", "-f", "avi", avi)
    ffmpeg("-i", avi, "-c", "copy", path)
    avi.unlink()


def sound_goes_on(path):
    ffmpeg(*picture(3), "-f", "lavfi", "-i", "sine=d=10", *H264, path)


def cut_off(path):
    whole = path.with_name("whole.mov_")
    ffmpeg(*picture(4), *H264, "-f", "mov", whole)
    ffmpeg("-ss", "0.5", "-i", whole, "-c", "copy", path)
    whole.unlink()


# name: (file, how it is made, number of frames, seconds from the first to the last frame)
VIDEOS = {
    "a browser's recorder": (
        "a.webm",
        lambda p: ffmpeg(*picture(4), "-c:v", "libvpx-vp9", "-cpu-used", "8", "-f", "webm", output=p),
        120,
        119 / 30,
    ),
    "a recorder with VP8": (
        "a.webm",
        lambda p: ffmpeg(*picture(4), "-c:v", "libvpx", "-f", "webm", output=p),
        120,
        119 / 30,
    ),
    "live Matroska": ("a.mkv", lambda p: ffmpeg(*picture(4), *H264, "-f", "matroska", output=p), 120, 119 / 30),
    "Windows Media": ("a.wmv", lambda p: ffmpeg(*picture(4), "-c:v", "wmv2", p), 120, 119 / 30),
    "a camera's JPEGs": (
        "a.avi",
        lambda p: ffmpeg(*picture(4, rate=25), "-c:v", "mjpeg", "-f", "mjpeg", output=p),
        100,
        99 / 25,
    ),
    "AVI through a pipe": (
        "a.avi",
        lambda p: ffmpeg(*picture(4), "-c:v", "mpeg4", "-f", "avi", output=p),
        120,
        119 / 30,
    ),
    "live Flash": ("a.flv", lambda p: ffmpeg(*picture(4), *H264, "-f", "flv", output=p), 120, 119 / 30),
    "fragmented MP4": ("a.mp4", fragmented, 120, 119 / 30),
    "joined transport streams": ("a.ts", joined, 120, 119 / 30),
    "from 5 to 55 frames a second": ("a.mkv", from_5_to_55_a_second, 120, 4 - 1 / 55),
    "from 5 to 55, transport stream": ("a.ts", from_5_to_55_a_second, 120, 4 - 1 / 55),
    "H.264 with a B-frame in AVI": (
        "a.avi",
        lambda p: ffmpeg(*picture(4, rate=25), *H264, "-bf", "1", p),
        100,
        99 / 25,
    ),
    "copied from AVI to MP4": ("a.mp4", copied_from_avi, 100, 99 / 25),
    "copied from AVI to MOV": ("a.mov", copied_from_avi, 100, 99 / 25),
    "pictures of 3 s under sound of 10": ("a.mkv", sound_goes_on, 90, 89 / 30),
    "the same in MP4": ("a.mp4", sound_goes_on, 90, 89 / 30),
    "the start cut off": ("a.mp4", cut_off, 105, 104 / 30),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_all_frames_of_a_video_are_known_everywhere(name, tmp_path, monkeypatch):
    file, make, frames, seconds = VIDEOS[name]
    (tmp_path / "walk").mkdir()
    path = tmp_path / "walk" / file
    make(path)
    expected = np.stack(list(_images(path, 32)))
    assert len(expected) == frames == probe(path).frames
    for asked in ([frames - 1], [5, 2, 40], range(frames - 20, frames), [frames // 2]):
        np.testing.assert_array_equal(read_frames(path, asked, short_side=32), expected[list(asked)])

    folder = VideoFolder(tmp_path, num_crops=1, **OPTIONS)
    left = (expected.shape[2] - 32) // 2
    views = folder.test_example(0)["video"]
    indices = clip_indices(frames, 8, 2, 10)
    np.testing.assert_array_equal(views, expected[indices][:, :, :, left : left + 32])
    trained_on = []
    monkeypatch.setattr(videos, "read_crops", lambda *a, **k: trained_on.append(a[1]) or read_crops(*a, **k))
    for seed in range(60):
        clip = folder.train_example(0, np.random.default_rng(seed))["video"]
        assert len(np.unique(clip.reshape(8, -1), axis=0)) >= 6, "different frames"
    assert len(trained_on) == 60 and max(indices[-1] for indices in trained_on) > 0.9 * frames

    sampled = []
    clips = list(clips_of_file(path, lambda n, rate: sampled.append((n, rate)) or indices, 32))
    assert sampled[0][0] == frames
    assert sampled[0][1] == pytest.approx((frames - 1) / seconds, rel=0.01)
    for clip in clips:
        np.testing.assert_array_equal(clip.video, expected[indices[clip.number]])
    assert clips[0].seconds < clips[-1].seconds <= seconds + 0.01
    if "second" not in name and "stream" not in name:
        middles = (indices[:, 0] + indices[:, -1]) / 2 * seconds / (frames - 1)
        np.testing.assert_allclose([clip.seconds for clip in clips], middles, atol=0.05)

    item = Item(file, f"walk/{file}", "train", 0)
    line = Inspection(tmp_path, ("walk",))(item).line
    honest = {"from 5 to 55 frames a second": "rate", "from 5 to 55, transport stream": "rate"}
    if "joined" not in name:
        assert line.status == honest.get(name, "ok"), line
    assert line.frames == frames

    record = Preparation(tmp_path, 32)(item)
    assert record["frames"] == frames and record["rate"] == pytest.approx(folder._video(0)[2])
    prepared = read_frames(record["video"], range(frames)).astype(int)
    assert len(prepared) == frames and np.abs(prepared - expected).mean(axis=(1, 2, 3)).max() < 12
    with av.open(io.BytesIO(record["video"])) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times[-1] - times[0] == pytest.approx(seconds, abs=0.05)


def _images(path, short_side=None):
    to_rgb = to_rgb_of(path, index_of(path), short_side)
    yield from (to_rgb(frame).copy() for frame in all_frames(path))


def check_one(folder, name):
    """Returns the line of the report on a file."""
    return Inspection(folder, ("walk",))(Item(name, name, "train", 0)).line


@pytest.fixture
def turned(tmp_path):
    """20 frames of 64 x 48, then 20 of 48 x 64, in one transport stream."""
    path = tmp_path / "turned.ts"
    data = b""
    for size in ("64x48", "48x64"):
        ffmpeg(*picture(1, rate=20, size=size), *H264, "-f", "mpegts", output=path)
        data += path.read_bytes()
    path.write_bytes(data)
    return path


def test_frames_of_another_size_are_fitted_into_the_first(turned):
    """A player does the same: the frame keeps its aspect and is in the middle, and the rest is black."""
    whole = read_frames(turned, range(40))
    assert whole.shape == (40, 48, 64, 3)
    upright = np.stack([frame.to_ndarray(format="rgb24") for frame in list(all_frames(turned))[20:]])
    assert upright.shape == (20, 64, 48, 3)
    assert not whole[20:, :, :14].any() and not whole[20:, :, -14:].any()  # 36 of 64 columns are left
    shown = whole[20:, :, 14:50].astype(int)
    rows, columns = np.arange(48) * 64 // 48, np.arange(36) * 48 // 36
    assert np.abs(shown - upright[:, rows][:, :, columns]).mean() < 18
    for asked in ([30], [3, 35], [25, 26]):  # for any frames that are read together
        np.testing.assert_array_equal(read_frames(turned, asked), whole[asked])


@pytest.mark.parametrize("place", [(0, 0), (7, 13), (16, 30)])
def test_a_crop_stays_where_it_is_when_the_size_changes(turned, place):
    whole = read_frames(turned, range(40), short_side=40)
    part = read_frames(turned, range(40), short_side=40, crop=lambda height, width: (*place, 20))
    top, left = place
    np.testing.assert_allclose(part.astype(int), whole[:, top : top + 20, left : left + 20], atol=40)
    assert np.abs(part.astype(int) - whole[:, top : top + 20, left : left + 20]).mean() < 1


def test_a_turned_phone_is_prepared_as_it_is_read(turned):
    found, record = transcode(turned, None)
    ours, theirs = read_frames(record, range(40)).astype(int), read_frames(turned, range(40))
    assert found.frames == 40 and np.abs(ours - theirs).mean() < 8
    assert check_one(turned.parent, turned.name).status == "ok"


def test_a_new_pixel_format_changes_nothing_else(tmp_path):
    path, data = tmp_path / "formats.ts", b""
    for pixels in ("yuv420p", "yuv444p"):
        ffmpeg(*picture(1, rate=20, size="64x48"), "-c:v", "libx264", "-pix_fmt", pixels, "-f", "mpegts", output=path)
        data += path.read_bytes()
    path.write_bytes(data)
    crop = read_frames(path, range(40), crop=lambda height, width: (8, 12, 30)).astype(int)
    assert np.abs(crop[:20] - crop[20:]).mean() < 6  # the same pictures again


@pytest.mark.parametrize(
    "ending, codec", [("mp4", "libx264"), ("mkv", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx")]
)
@pytest.mark.parametrize("aspect, shown", [("16/11", (48, 93)), ("1/2", (96, 64)), ("1/1", (48, 64))])
def test_pixels_that_are_not_square(ending, codec, aspect, shown, tmp_path):
    path = tmp_path / f"video.{ending}"
    ffmpeg(*picture(0.4, size="64x48"), "-vf", f"setsar={aspect}", "-c:v", codec, "-pix_fmt", "yuv420p", path)
    assert read_frames(path, [0]).shape == (1, *shown, 3)
    assert (probe(path).width, probe(path).height) == (64, 48)
    short = min(shown) // 2
    size = read_frames(path, [0], short_side=short).shape[1:3]
    assert min(size) == short and max(size) == pytest.approx(max(shown) * short / min(shown), abs=1)
    _, record = transcode(path, None)
    size = read_frames(record, [0]).shape[1:3]
    assert size == pytest.approx(shown, abs=1) and not any(side % 2 for side in size), "in square pixels"


EXIF_TURNS = {1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud}
EXIF_TURNS |= {5: lambda x: np.swapaxes(x, 0, 1), 6: lambda x: np.rot90(x, -1)}
EXIF_TURNS |= {7: lambda x: np.rot90(np.swapaxes(x, 0, 1), 2), 8: np.rot90}


@pytest.mark.parametrize("orientation", EXIF_TURNS)
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_a_camera_s_picture_is_turned_as_its_exif_says(orientation, ending, tmp_path, pan):
    (tmp_path / "walk").mkdir()
    path = tmp_path / "walk" / f"photo.{ending}"
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = orientation, "a camera"
    image = pan(1, 80, 64)[0]
    Image.fromarray(image).save(path, exif=exif, quality=95)
    expected = EXIF_TURNS[orientation](image)
    found = read_frames(path, [0])[0]
    assert found.shape == expected.shape and np.abs(found.astype(int) - expected).mean() < 6
    assert check_one(tmp_path, f"walk/photo.{ending}").status == "ok"
    videos = VideoFolder(tmp_path, num_crops=1, **OPTIONS | {"frames": 1, "num_clips": 1})
    assert videos.train_example(0, np.random.default_rng(0))["video"].any()
    assert Preparation(tmp_path, None)(Item("photo", f"walk/photo.{ending}", "train", 0))["frames"] == 1
    assert len(list(clips_of_file(path, lambda n, _: np.zeros((1, n), int), 32))) == 1


@pytest.fixture
def frames_on_disk(tmp_path, pan):
    """A video as numbered pictures in two classes, beside a video, a thumbnail and notes."""
    images = pan(12, 64, 48)
    for label, name in (("walk", "first"), ("walk", "second"), ("run", "third")):
        folder = tmp_path / "videos" / label / name
        folder.mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / f"img_{number + 1}.png")  # 10 comes after 9
    (tmp_path / "videos/walk/first/labels.txt").write_text("notes")
    Image.fromarray(images[0]).save(tmp_path / "videos/walk/thumbnail.jpg")
    return tmp_path / "videos", images


def test_a_folder_of_numbered_pictures_is_a_video(frames_on_disk, encode):
    root, images = frames_on_disk
    encode(root / "run/film.mp4", images)
    videos = VideoFolder(root, num_crops=1, **OPTIONS)
    assert videos.names == ["run/film.mp4", "run/third", "walk/first", "walk/second"]
    assert videos.ignored == ["walk/first/labels.txt", "walk/thumbnail.jpg"]
    path = root / "walk/first"
    assert probe(path).frames == 12
    np.testing.assert_array_equal(read_frames(path, [11, 3, 9]), images[[11, 3, 9]])
    clip = videos.train_example(2, np.random.default_rng(0))
    assert clip["video"].shape == (8, 32, 32, 3) and len(np.unique(clip["video"].reshape(8, -1), axis=0)) > 5
    assert videos.test_example(2)["failed"][0] == -1
    found, record = transcode(path, None)
    assert found.frames == 12 and np.abs(read_frames(record, range(12)).astype(int) - images).mean() < 8
    assert len(list(clips_of_file(path, lambda n, _: np.arange(n).reshape(3, 4), 32))) == 3
    (root / "list.csv").write_text("walk/first,walk\nrun/film.mp4,run\n")
    assert VideoFolder(root / "list.csv", num_crops=1, **OPTIONS).names == ["walk/first", "run/film.mp4"]

    listing = own_videos(root)
    lines = {finding.line.path: finding.line for finding in check_copy(listing, root, num_workers=0, timeout=60.0)}
    assert {path: line.status for path, line in lines.items()} == {
        "list.csv": "unlisted",
        "run/film.mp4": "ok",
        "run/third": "ok",
        "walk/first": "ok",
        "walk/first/labels.txt": "unlisted",
        "walk/second": "ok",
        "walk/thumbnail.jpg": "unlisted",
    }
    (path / "img_7.png").write_bytes(b"no picture")
    with pytest.raises(DecodeError, match=r"img_7\.png: "):
        read_frames(path, range(12))
    assert check_one(root, "walk/first").status == "unreadable"


def test_pictures_of_classes_are_pictures(tmp_path, pan):
    """ImageNet has CLASS/CLASS_1.JPEG, and a smaller copy CLASS/images/CLASS_1.JPEG. Their numbers are not times."""
    for layout in ("", "images/"):
        root = tmp_path / (layout.strip("/") or "plain")
        for label in ("n01", "n02"):
            (root / label / layout).mkdir(parents=True)
            for number in range(3):
                Image.fromarray(pan(1)[0]).save(root / label / layout / f"{label}_{number}.JPEG")
        videos = VideoFolder(root, num_crops=1, **OPTIONS | {"frames": 1})
        assert videos.names[0] == f"n01/{layout}n01_0.JPEG" and len(videos) == 6
        with pytest.raises(InputError, match="still pictures alone, which are clips of one frame; frames: found 8"):
            VideoFolder(root, num_crops=1, **OPTIONS)


def test_pictures_that_are_damaged_are_counted_and_left_out(tmp_path, pan, encode):
    """In H.264 libav invents a picture and marks it as corrupt. It must not be used for training."""
    path = encode(tmp_path / "video.mp4", pan(50, 160, 120), g=10, bf=2, crf=15)
    whole = read_frames(path, range(50))
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    original = path.read_bytes()
    for shift in range(0, 400, 20):  # until libav finds the damage
        data = bytearray(original)
        position, size = packets[25]
        place = position + size // 4 + shift
        data[place : place + 20] = bytes(20)
        path.write_bytes(data)
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "NONE"
            marked = sum(frame.is_corrupt for frame in container.decode(video=0))
        if marked:
            break
    assert marked
    frames = list(all_frames(path))
    assert 40 <= len(frames) < 50 and not any(frame.is_corrupt for frame in frames)
    line = check_one(tmp_path, "video.mp4")
    assert line.status == "truncated" and line.frames == len(frames)
    assert "of 50 frames decode (" in line.reason and "damaged" in line.reason
    for frame in _images(path):
        assert np.abs(frame.astype(int) - whole).mean(axis=(1, 2, 3)).min() < 1, "each is a frame of the whole video"
    (tmp_path / "list.csv").write_text("video.mp4,walk\n")
    for seed in range(10):
        first, again = (
            VideoFolder(tmp_path / "list.csv", num_crops=1, **OPTIONS).train_example(0, np.random.default_rng(seed))
            for _ in range(2)
        )
        np.testing.assert_array_equal(first["video"], again["video"])


def test_what_decodes_and_cannot_be_written_is_one_row(tmp_path, pan, encode):
    """Time stamps that jump by seven hours, and a picture that is too wide for H.264."""
    encode(tmp_path / "leap.mkv", pan(4), times=np.array([0, 40, 25_200_000, 25_200_040]))
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc2=s=16500x2200:d=0.04",
        "-frames:v",
        "1",
        "-pix_fmt",
        "rgb24",
        tmp_path / "wide.png",
    )
    encode(tmp_path / "good.mp4", pan(4))
    prepare = Preparation(tmp_path, None, tmp_path / "cache")
    items = [Item(name, name, "train", 0) for name in ("leap.mkv", "wide.png", "good.mp4")]
    reasons = {item.path: reason for item, reason in prepare.keep_all(items, num_workers=0, timeout=60.0)}
    assert reasons["good.mp4"] == ""
    for name in ("leap.mkv", "wide.png"):
        assert "cannot be written as H.264" in reasons[name]
        assert prepare(Item(name, name, "train", 0))["video"] == b""


@pytest.mark.parametrize("size", ["8192x2", "2x4000"])
def test_a_picture_that_no_crop_fits_is_refused_by_name(size, tmp_path):
    (tmp_path / "walk").mkdir()
    path = tmp_path / "walk/strip.png"
    ffmpeg(*picture(0.04, rate=25, size=size), path)
    width, height = size.split("x")
    videos = VideoFolder(tmp_path, num_crops=1, **OPTIONS | {"frames": 1})
    assert videos.test_example(0)["failed"][0] == 0
    for said in (videos.failure_reason(0), check_one(tmp_path, "walk/strip.png").reason):
        assert f"its pictures are {width} x {height}, valid is at most 8 times" in said
    with pytest.raises(DecodeError, match=r"strip\.png"):
        videos.train_example(0, np.random.default_rng(0))
    assert "valid is at most 8 times" in Preparation(tmp_path, 256)(Item("s", "walk/strip.png", "train", 0))["reason"]


def test_a_picture_that_is_too_large_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(DecodeError, match=r"large\.png: .* more than 200000000 pixels"):
        read_frames(path, [0])


def test_any_exception_of_a_decoder_is_the_reason_of_its_file(tmp_path, pan, encode, monkeypatch):
    path = encode(tmp_path / "walk/video.mp4", pan(20))

    def fail(packet):
        raise RuntimeError("out of tricks")

    monkeypatch.setattr("nl_jax.data.media.to_rgb.ToRgb.__call__", lambda self, frame: fail(frame))
    for attempt in (lambda: read_frames(path, [3]), lambda: transcode(path, 32)):
        with pytest.raises(DecodeError, match=r"video\.mp4: RuntimeError: out of tricks"):
            attempt()
    assert check_one(tmp_path, "walk/video.mp4").reason == "RuntimeError: out of tricks"
    assert VideoFolder(tmp_path, num_crops=1, **OPTIONS).failure_reason(0) == "RuntimeError: out of tricks"


def test_nothing_of_a_clip_is_left_when_it_is_gone(tmp_path, pan, encode):
    """No frame stays in memory until a garbage collection."""
    path = encode(tmp_path / "video.mp4", pan(40, 320, 240), rotation=90)
    read_frames(path, range(0, 40, 2), short_side=100)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            read_frames(path, range(0, 40, 2), short_side=100, crop=lambda height, width: (3, 5, 90))
        left = [found for found in gc.get_objects() if issubclass(type(found), av.VideoFrame) and found.width > 2]
        assert not left
    finally:
        gc.enable()


def test_an_index_is_read_once_and_anew_when_the_file_changes(tmp_path, pan, encode, monkeypatch):
    read = []
    real = packets._read
    monkeypatch.setattr(packets, "_read", lambda path: read.append(path) or real(path))
    path = encode(tmp_path / "walk/video.mkv", pan(20))
    videos = VideoFolder(tmp_path, num_crops=1, **OPTIONS)
    assert not read, "opening a folder reads no file"
    for seed in range(5):
        videos.train_example(0, np.random.default_rng(seed))
    assert len(read) == 1
    encode(path, pan(30))
    assert index_of(path).frames == 30 and len(read) == 2
    monkeypatch.setattr(packets, "_CACHED_PACKETS", 300)
    files = [encode(tmp_path / f"{number}.mp4", pan(25)) for number in range(5)]
    for file in files:
        index_of(file)
    assert packets._cache.weight == 250, "the two that were used last"
    read.clear()
    for file in (files[4], files[3], files[4], files[0], files[4]):
        index_of(file)
    assert read == [files[0]]
