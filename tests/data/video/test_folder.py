import pickle
import shutil
from functools import partial

import numpy as np
import pytest

from configs import kinetics
from nl_jax.data.dataset import MAX_FAILED
from nl_jax.data.media.decode import read_crops, read_frames
from nl_jax.data.media.failure import DecodeError
from nl_jax.data.video import videos as videos_module
from nl_jax.data.video.clips import test_indices as clip_indices  # renamed: pytest would collect it
from nl_jax.data.video.folder import VideoFolder
from nl_jax.errors import InputError
from nl_jax.tasks import task_of

make = partial(
    VideoFolder,
    frames=4,
    stride=2,
    crop=24,
    short_side=(32, 40),
    test_crop=32,
    test_short_side=32,
    num_clips=2,
    num_crops=3,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pan, encode):
    """Returns seven files in classes bend, jump and walk. Files 1 (empty), 3 (text) and 4 (cut off) do not decode."""
    root = tmp_path_factory.mktemp("videos")
    encode(root / "bend/a.mp4", pan(30), g=12)
    (root / "bend/b.mp4").touch()
    encode(root / "jump/c.avi", pan(5, photo=1), codec="mpeg4")  # shorter than a clip
    (root / "jump/d.MP4").write_text("no video\n" * 20)
    whole = encode(root / "jump/deep/e.mp4", pan(30), g=12)
    whole.write_bytes(whole.read_bytes()[:-3000])
    encode(root / "walk/f.mkv", pan(40, photo=1), g=12)
    encode(root / "walk/g.mp4", pan(30), g=12, audio=True)
    (root / "walk/notes.txt").write_text("notes")
    (root / "walk/.DS_Store").write_text("x")
    (root / "walk/.trash").mkdir()
    (root / "walk/.trash/old.mp4").write_text("x")
    (root / "readme.md").write_text("x")
    return root


@pytest.fixture
def write_csv(tmp_path):
    def write(text: str, files=("a.mp4", "b.mp4", "sub/c.mp4")):
        for name in files:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"x")
        path = tmp_path / "list.csv"
        path.write_text(text)
        return path

    return write


def test_a_folder_of_classes(folder):
    videos = make(folder)
    assert videos.classes == ("bend", "jump", "walk")
    assert videos.names[:5] == ["bend/a.mp4", "bend/b.mp4", "jump/c.avi", "jump/d.MP4", "jump/deep/e.mp4"]
    assert videos.names[5:] == ["walk/f.mkv", "walk/g.mp4"]
    assert videos.labels == [0, 0, 1, 1, 1, 2, 2]
    assert len(videos) == 7
    assert sorted(videos.ignored) == ["readme.md", "walk/.DS_Store", "walk/.trash/old.mp4", "walk/notes.txt"]


@pytest.mark.parametrize("header", ["", "path,label\n", "\ufeffpath,label\n"])
def test_a_csv_list(header, write_csv):
    path = write_csv(f'{header}b.mp4,walk\n"a.mp4", bend \n\n./sub/../sub/c.mp4,walk\n')
    videos = make(path)
    assert videos.classes == ("bend", "walk")
    assert videos.names == ["b.mp4", "a.mp4", "sub/c.mp4"]
    assert videos.labels == [1, 0, 1]
    assert videos.ignored == []


def test_integer_labels_are_class_indices(write_csv):
    videos = make(write_csv("a.mp4,10\nb.mp4,2\nsub/c.mp4,0\n"))
    assert videos.classes == tuple(str(i) for i in range(11))
    assert videos.labels == [10, 2, 0]
    mixed = make(write_csv("a.mp4,10\nb.mp4,2\nsub/c.mp4,run\n"))
    assert (mixed.classes, mixed.labels) == (("10", "2", "run"), [0, 1, 2])
    with pytest.raises(InputError, match=r"list\.csv: found the label 99999999"):
        make(write_csv("a.mp4,99999999\nb.mp4,0\n"))


def test_given_classes_fix_the_order(write_csv, folder):
    path = write_csv("a.mp4,walk\nb.mp4,bend\n")
    assert make(path, classes=("walk", "run", "bend")).labels == [0, 2]
    with pytest.raises(InputError, match=r"list\.csv, line 1: found label 'walk', valid are run, bend"):
        make(path, classes=("run", "bend"))
    with pytest.raises(InputError, match="walk: found label 'walk', valid are bend, jump"):
        make(folder, classes=("bend", "jump"))
    with pytest.raises(InputError, match="classes: found"):
        make(path, classes=("walk", "bend", "walk"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4,walk\nb.mp4\n", r"list\.csv, line 2: found 'b.mp4', valid is path,label"),
        ("a.mp4,walk,3\n", r"list\.csv, line 1: found 'a.mp4,walk,3'"),
        ("path,label\na.mp4,\n", r"list\.csv, line 2: found 'a.mp4,'"),
        ("a.mp4,walk\n\ngone.mp4,walk\n", r"list\.csv, line 3: there is no file .*gone\.mp4"),
        ("a.mp4,walk\nb.mp4,walk\nsub/../a.mp4,run\n", r"list\.csv, line 3: a\.mp4 is listed already in line 1"),
        ("a.mp4,walk\nb.mp4,1,\n", r"list\.csv, line 2: found 'b.mp4,1,'"),
        ('a.mp4,"walk\n', r"list\.csv: not a CSV"),
        ("", r"list\.csv: found no line"),
        ("path,label\n", r"list\.csv: found no line"),
        ("a.mp4,-1\nb.mp4,0\n", r"list\.csv: found the label -1, valid are class names or integers from 0"),
    ],
)
def test_a_wrong_csv_names_file_and_line(text, message, write_csv):
    with pytest.raises(InputError, match=message):
        make(write_csv(text))


def test_a_duplicate_is_found_behind_an_absolute_path(write_csv, tmp_path):
    with pytest.raises(InputError, match=r"line 2: a\.mp4 is listed already"):
        make(write_csv(f"a.mp4,walk\n{tmp_path}/a.mp4,walk\n"))


def test_a_video_is_not_a_list(folder):
    with pytest.raises(InputError, match=r"a\.mp4: not a CSV"):
        make(folder / "bend/a.mp4")


def test_wrong_folders(tmp_path):
    with pytest.raises(InputError, match="gone: there is no such file or folder"):
        make(tmp_path / "gone")
    with pytest.raises(InputError, match="found no sub-folder"):
        make(tmp_path)
    (tmp_path / "walk").mkdir()
    (tmp_path / "walk/notes.txt").touch()
    with pytest.raises(InputError, match="found no video"):
        make(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"frames": 0},
        {"stride": 0},
        {"crop": 0},
        {"num_clips": 0},
        {"num_crops": 2},
        {"short_side": (40, 32)},
        {"short_side": (20, 32)},
        {"test_crop": 33},
        {"test_crop": -1},
    ],
)
def test_wrong_numbers_name_their_field(wrong, folder):
    with pytest.raises(InputError, match=f"^{next(iter(wrong))}: found"):
        make(folder, **wrong)


def test_a_training_clip(folder):
    videos = make(folder)
    example = videos.train_example(5, np.random.default_rng(0))
    assert example["video"].shape == (4, 24, 24, 3)
    assert example["video"].dtype == np.uint8
    assert example["video"].flags.c_contiguous
    assert len(np.unique(example["video"].reshape(4, -1), axis=0)) == 4
    assert {k: (int(v), v.dtype) for k, v in example.items() if k in ("label", "index")} == {
        "label": (2, np.int32),
        "index": (5, np.int32),
    }
    np.testing.assert_array_equal(example["failed"], np.full(MAX_FAILED, -1, np.int32), strict=True)
    again, other = (videos.train_example(5, np.random.default_rng(seed))["video"] for seed in (0, 1))
    np.testing.assert_array_equal(example["video"], again)
    assert (example["video"] != other).any()


def test_several_clips_of_one_decoding(folder, monkeypatch):
    """Clips share frames; each has its scale, crop and flip. The first clip is that of `train_example`."""
    calls = []
    monkeypatch.setattr(videos_module, "read_crops", lambda *a: calls.append(a) or read_crops(*a))
    examples = make(folder).train_examples(5, np.random.default_rng(4), 3)
    ((path, indices, crops),) = calls
    single = make(folder).train_example(5, np.random.default_rng(4))
    for name, array in single.items():
        np.testing.assert_array_equal(examples[0][name], array)
    assert len({short_side for short_side, _ in crops}) > 1
    for example, (short_side, crop) in zip(examples, crops, strict=True):
        frames = read_frames(path, indices, short_side=short_side)
        top, left, side = crop(*frames.shape[1:3])
        expected = frames[:, top : top + side, left : left + side]
        # The scaling of a crop's chroma does not use pixels around the crop.
        near = [np.abs(example["video"].astype(int) - e).mean() < 2 for e in (expected, expected[:, :, ::-1])]
        assert near.count(True) == 1 and example["index"] == 5 and example["label"] == 2
    broken = make(folder).train_examples(3, np.random.default_rng(4), 3)
    assert all((example["failed"] == broken[0]["failed"]).all() for example in broken) and broken[0]["failed"][0] == 3


def test_half_of_the_clips_are_mirrored(folder):
    mirrored = 0
    for seed in range(40):
        shown, upright = (
            make(folder, flip=flip).train_example(5, np.random.default_rng(seed))["video"] for flip in (True, False)
        )
        mirrored += (shown != upright).any()
        np.testing.assert_array_equal(shown, upright[:, :, ::-1] if (shown != upright).any() else upright)
    assert 10 < mirrored < 30


def test_all_scales_are_drawn(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(
        videos_module,
        "read_crops",
        lambda path, indices, crops: seen.append(crops[0][0]) or read_crops(path, indices, crops),
    )
    videos = make(folder, crop=32)
    rng = np.random.default_rng(0)
    for _ in range(100):
        videos.train_example(0, rng)
    assert set(seen) == set(range(32, 41))


def test_a_video_that_does_not_decode_is_replaced_by_one_that_does(folder):
    videos = make(folder)
    shown = set()
    for seed in range(20):
        example = videos.train_example(3, np.random.default_rng(seed))
        failed = [int(index) for index in example["failed"] if index >= 0]
        assert example["index"] == 3 and failed[0] == 3 and set(failed) <= {1, 3, 4} and len(set(failed)) == len(failed)
        clips = {i: videos.train_example(i, np.random.default_rng(seed))["video"] for i in (0, 2, 5, 6)}
        same = [i for i, clip in clips.items() if (clip == example["video"]).all()]
        assert int(example["label"]) in [videos.labels[i] for i in same]  # files 0 and 6 show the same frames
        shown.update(same)
    assert shown == {0, 2, 5, 6}, "each that decodes has its turn"


def test_the_one_good_video_among_broken_neighbours_is_found(write_csv, folder, tmp_path):
    shutil.copy(folder / "bend/a.mp4", tmp_path / "good.mp4")
    names = [f"{i}.mp4" for i in range(MAX_FAILED)]
    path = write_csv("good.mp4,walk\n" + "".join(f"{name},run\n" for name in names), files=["good.mp4", *names][1:])
    for index in (1, MAX_FAILED):
        example = make(path).train_example(index, np.random.default_rng(0))
        assert (example["label"], example["index"], example["failed"][0]) == (1, index, index)


def test_a_network_without_data_of_its_own_can_be_tested(folder):
    config = kinetics.get_config("c2d_r50").unlock()
    config.data.test = str(folder)
    assert set(task_of(config).open_split("test").classes) == {"bend", "jump", "walk"}
    with pytest.raises(InputError, match=r"data\.validation is empty: give a folder"):
        task_of(config).open_split("validation")


@pytest.mark.parametrize(("count", "tried"), [(1, 1), (3, 3), (MAX_FAILED + 5, MAX_FAILED + 1)])
def test_too_many_failures_are_an_error(count, tried, write_csv):
    names = [f"{i}.mp4" for i in range(count)]
    videos = make(write_csv("".join(f"{name},walk\n" for name in names), files=names))
    with pytest.raises(
        DecodeError, match=f"{tried} of {count} videos tried, none can be decoded: 0.mp4.*; the first: "
    ):
        videos.train_example(0, np.random.default_rng(0))


@pytest.fixture
def lying(tmp_path, pan, encode):
    """Returns a folder with a video whose header counts 60 frames and whose data ends before the last of them."""
    video = encode(tmp_path / "walk/video.avi", pan(60, 160, 120), codec="mpeg4")
    data = video.read_bytes()
    video.write_bytes(data[: int(len(data) * 0.6)])
    return tmp_path


def test_a_video_that_ends_early_is_sampled_within_what_decodes(lying, monkeypatch):
    counted = []
    monkeypatch.setattr(videos_module, "read_crops", lambda *a: counted.append(1) or read_crops(*a))
    videos = make(lying)
    fresh = []
    for seed in range(12):
        example = videos.train_example(0, np.random.default_rng(seed))
        assert (example["failed"] == -1).all()
        assert example["video"].any()
        fresh.append(make(lying).train_example(0, np.random.default_rng(seed))["video"])
        np.testing.assert_array_equal(example["video"], fresh[-1], err_msg="clips must not depend on those before")
    counted.clear()
    views = videos.test_example(0)
    assert (views["failed"] == -1).all()
    assert all(view.any() for view in views["video"])
    assert len(counted) == 1, "the true length is remembered"


def test_test_views_are_crops_of_clips(folder):
    videos = make(folder)
    example = videos.test_example(5)
    assert example["video"].shape == (6, 4, 32, 32, 3)
    assert (example["label"], example["index"]) == (2, 5)
    np.testing.assert_array_equal(example["failed"], [-1] * MAX_FAILED)
    path = folder / "walk/f.mkv"
    for clip, indices in enumerate(clip_indices(40, 4, 2, 2)):
        frames = read_frames(path, indices, short_side=32)
        width = frames.shape[2]
        for crop, left in enumerate((0, (width - 32) // 2, width - 32)):
            expected = frames[:, :, left : left + 32]
            np.testing.assert_array_equal(example["video"][3 * clip + crop], expected)


def test_test_views_of_a_short_video_loop(folder):
    video = make(folder, num_crops=1, num_clips=1).test_example(2)["video"]
    frames = read_frames(folder / "jump/c.avi", [0, 2, 4, 1], short_side=32)
    np.testing.assert_array_equal(video[0], frames[:, :, 5:37])


@pytest.mark.parametrize("index", [1, 3, 4])
def test_test_views_are_never_replaced(index, folder):
    videos = make(folder)
    example = videos.test_example(index)
    assert example["video"].shape == (6, 4, 32, 32, 3)
    assert not example["video"].any()
    assert (example["label"], example["index"]) == (videos.labels[index], index)
    np.testing.assert_array_equal(example["failed"], [index] + [-1] * (MAX_FAILED - 1))


def test_examples_batch(folder):
    videos = make(folder)
    for examples in (
        [videos.train_example(i, np.random.default_rng(i)) for i in range(7)],
        [videos.test_example(i) for i in range(7)],
    ):
        batch = {key: np.stack([example[key] for example in examples]) for key in examples[0]}
        assert batch["failed"].shape == (7, MAX_FAILED)
        assert {batch[key].dtype for key in ("label", "index", "failed")} == {np.dtype(np.int32)}
        np.testing.assert_array_equal(batch["index"], range(7))


def test_an_image_folder_is_a_data_set_of_one_frame(tmp_path, pan, encode):
    encode(tmp_path / "walk/a.png", pan(1), codec="png", pixels="rgb24")
    videos = make(tmp_path, frames=1, stride=1, num_clips=1, num_crops=1)
    assert videos.train_example(0, np.random.default_rng(0))["video"].shape == (1, 24, 24, 3)
    assert videos.test_example(0)["video"].any()


def test_failure_reasons(folder):
    videos = make(folder)
    assert videos.failure_reason(1) == "the file is empty"
    assert "not a video" in videos.failure_reason(3)
    assert "decodes now" in videos.failure_reason(0)


def test_list_hash_names_the_list_and_not_its_place(folder, tmp_path):
    original = make(folder).list_hash()
    assert len(original) == 12 and int(original, 16) >= 0
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert make(copy).list_hash() == original
    rows = [f"{name},{name.split('/')[0]}" for name in reversed(make(copy).names)]
    (copy / "list.csv").write_text("\n".join(rows))
    assert make(copy / "list.csv").list_hash() == original
    (copy / "list.csv").write_text("\n".join([*rows[1:], rows[0].replace(",walk", ",jump")]))
    assert make(copy / "list.csv").list_hash() != original
    (copy / "walk/g.mp4").rename(copy / "walk/h.mp4")
    assert make(copy).list_hash() != original


def test_the_data_set_travels_to_worker_processes(folder):
    videos = make(folder)
    copy = pickle.loads(pickle.dumps(videos))
    assert (copy.names, copy.labels, copy.classes) == (videos.names, videos.labels, videos.classes)
    np.testing.assert_array_equal(copy.test_example(6)["video"], videos.test_example(6)["video"])
    assert len(pickle.dumps(videos)) < 2000
