"""Prepared records of a folder train and test like the folder itself."""

import json
import os
import pickle
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs import something
from nl_jax.data.loader import TrainBatches
from nl_jax.data.media.decode import read_frames
from nl_jax.data.media.failure import DecodeError
from nl_jax.data.open import open_videos
from nl_jax.data.records import make, write
from nl_jax.data.records.read import PreparedVideos, read_index, write_index
from nl_jax.data.records.write import BUILDERS, config_of
from nl_jax.data.sources.listing import Action, Item, Listing
from nl_jax.data.video.folder import VideoFolder
from nl_jax.data.workers import Crash
from nl_jax.errors import InputError
from nl_jax.tasks.classification import Classification

# The version of protobuf for Apache Beam warns about calls in TFDS.
pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")

OPTIONS = dict(
    frames=4, stride=2, crop=24, short_side=(32, 40), test_crop=32, test_short_side=32, num_clips=2, num_crops=3
)
open_prepared = partial(PreparedVideos, **OPTIONS)


def prepare(dataset, source, out, **changes):
    builder = BUILDERS[dataset](config=config_of(dataset, **changes), data_dir=out)
    builder.source = source
    builder.download_and_prepare(download_dir=out / "downloads")
    return builder


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pan, encode):
    """Five files in two classes; b.mp4 is empty, and c.avi holds fewer frames than it promises."""
    root = tmp_path_factory.mktemp("videos")
    encode(root / "bend/a.mp4", pan(30), g=12)
    (root / "bend/b.mp4").touch()
    lying = encode(root / "jump/c.avi", pan(60, 160, 120), codec="mpeg4")
    lying.write_bytes(lying.read_bytes()[: lying.stat().st_size * 6 // 10])
    encode(root / "jump/caf\xe9 d.mkv", pan(40, photo=1), g=12, audio=True)
    encode(root / "jump/e.mp4", pan(5, photo=1))
    return root


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "VIDEOS_PER_SHARD", 2)
        return prepare("video_folder", folder, tmp_path_factory.mktemp("prepared"))


def test_the_records(prepared, folder):
    assert "tensorflow" not in sys.modules
    info = prepared.info
    assert info.splits["train"].shard_lengths == [2, 2, 1]
    assert list(info.features["label"].names) == ["bend", "jump"]
    records = list(prepared.as_data_source("train"))
    paths = [os.fsdecode(record["path"]) for record in records]
    assert paths == ["bend/a.mp4", "bend/b.mp4", "jump/c.avi", "jump/caf\xe9 d.mkv", "jump/e.mp4"]
    assert [record["label"] for record in records] == [0, 0, 1, 1, 1]
    assert [record["reason"] for record in records] == [b"", b"the file is empty", b"", b"", b""]
    assert [bool(record["video"]) for record in records] == [True, False, True, True, True]
    frames = [record["frames"] for record in records]
    assert (frames[0], frames[1], frames[3], frames[4]) == (30, 0, 40, 5) and 5 < frames[2] < 60
    assert records[0]["rate"] == 25 and records[0]["duration"] == pytest.approx(30 / 25)
    assert len({record["sha256"] for record in records if record["sha256"]}) == 4


def test_the_index_says_what_the_records_say(prepared):
    directory = Path(prepared.data_path)
    written = write_index(directory)["train"]
    for row, again, record in zip(
        written, read_index(directory, "train"), prepared.as_data_source("train"), strict=True
    ):
        assert (row.path, row.label, row.frames) == (os.fsdecode(record["path"]), record["label"], record["frames"])
        for name in ("path", "label", "frames", "rate", "duration", "sha256", "reason"):
            assert getattr(row, name) == getattr(again, name)


def test_it_is_the_folder_it_was_made_of(prepared, folder):
    videos, original = open_prepared(prepared.data_path, "train"), VideoFolder(folder, **OPTIONS)
    assert (videos.names, videos.labels, videos.classes) == (original.names, original.labels, original.classes)
    assert videos.list_hash() == original.list_hash()
    for index in (0, 2, 3, 4):
        ours, theirs = videos.test_example(index), original.test_example(index)
        assert ours["video"].shape == theirs["video"].shape == (6, 4, 32, 32, 3)
        np.testing.assert_array_equal(ours["label"], theirs["label"], strict=True)
        np.testing.assert_array_equal(ours["failed"], theirs["failed"])
        if index != 2:  # the folder finds the length of this video only by decoding it
            assert np.abs(ours["video"].astype(int) - theirs["video"]).mean() < 8
            clip, same = (data.train_example(index, np.random.default_rng(1)) for data in (videos, original))
            assert np.abs(clip["video"].astype(int) - same["video"]).mean() < 8
            assert clip["label"] == same["label"]


def test_what_did_not_decode_stays_a_video(prepared):
    videos = open_prepared(prepared.data_path, "train")
    views = videos.test_example(1)
    assert views["failed"][0] == 1 and not views["video"].any()
    assert videos.failure_reason(1) == "the file is empty"
    clip = videos.train_example(1, np.random.default_rng(0))
    assert clip["failed"][0] == 1 and clip["video"].any()


def test_nothing_is_asked_of_a_video_but_its_frames(prepared, monkeypatch):
    videos = open_prepared(prepared.data_path, "train")
    monkeypatch.setattr("nl_jax.data.media.decode.probe", None)
    assert videos.train_example(2, np.random.default_rng(0))["video"].any()


@pytest.mark.parametrize("clips_per_decode, workers", [(1, (0, 1, 2)), (2, (0, 1))])
def test_workers_change_nothing_and_a_state_resumes(prepared, clips_per_decode, workers):
    options = {"batch_size": 2, "seed": 3, "clips_per_decode": clips_per_decode}
    videos = pickle.loads(pickle.dumps(open_prepared(prepared.data_path, "train")))
    videos.train_example(0, np.random.default_rng(0))  # opens the records in this process
    runs = []
    for count in workers:
        batches = TrainBatches(videos, num_workers=count, **options)
        runs.append([next(batches) for _ in range(4)])
        state = batches.get_state()
        batches.close()
    resumed = TrainBatches(videos, **options)
    resumed.set_state({"next_batch": 3})
    runs.append([*runs[0][:3], next(resumed)])
    assert state == resumed.get_state()
    for run in runs[1:]:
        for batch, expected in zip(run, runs[0], strict=True):
            for name in expected:
                np.testing.assert_array_equal(batch[name], expected[name])


def test_something_something_is_prepared_and_a_flip_of_its_clips_is_told(tmp_path, pan, encode):
    classes = [f"Doing number {k}" for k in range(172)] + ["Pushing something from Left to right", "Turning it upright"]
    labels = {name: str(k) for k, name in enumerate(classes)}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    for split, number in (("train", "7"), ("validation", "12")):
        listed = [{"id": number, "template": "Pushing [something] from Left to right"}]
        (tmp_path / f"{split}.json").write_text(json.dumps(listed))
        encode(tmp_path / f"videos/{number}.webm", pan(12), codec="libvpx", g=12)
    builder = prepare("something_something_v2", tmp_path, tmp_path / "out")
    assert str(builder.data_path).endswith("something_something_v2/short256/1.0.0")
    videos = open_prepared(builder.data_path, "train")
    assert videos.names == ["videos/7.webm"] and videos.labels == [172] and videos.classes == tuple(classes)
    assert videos.train_example(0, np.random.default_rng(0))["video"].any()
    config = something.get_config()
    assert not any("flip" in note for note in Classification(config).notes(videos))
    config.data.flip = True
    (note,) = [note for note in Classification(config).notes(videos) if "flip" in note]
    assert "1 classes tell left from right (such as Pushing something from Left to right): set data.flip=False" in note


def test_folders_are_opened_as_folders(folder):
    assert isinstance(open_videos(folder, **OPTIONS), VideoFolder)
    with pytest.raises(InputError, match="no such file or folder"):
        open_videos("/no/such", **OPTIONS)


def test_it_is_found_from_above(prepared, tmp_path):
    directory = Path(prepared.data_path)
    assert open_prepared(directory.parents[2], "train").names == open_prepared(directory, "train").names
    with pytest.raises(InputError, match="found none, valid is the directory"):
        open_prepared(tmp_path, "train")
    with pytest.raises(InputError, match="has no split 'test', valid are train"):
        open_prepared(directory, "test")
    for path in (f"{directory}:train", f"{directory.parents[2]}:train"):
        assert open_videos(path, **OPTIONS).list_hash() == open_prepared(directory, "train").list_hash()
    with pytest.raises(InputError, match=r"1\.0\.0:SPLIT with one of train"):
        open_videos(directory, **OPTIONS)
    with pytest.raises(InputError, match="its classes are not the requested ones; found bend, jump"):
        open_prepared(directory, "train", classes=("jump", "bend"))


def test_whole_frames_keep_their_size(prepared):
    videos = open_prepared(prepared.data_path, "train", **OPTIONS | {"test_crop": 0, "num_crops": 1})
    assert videos.variable_size and not open_prepared(prepared.data_path, "train").variable_size
    assert videos.test_example(0)["video"].shape == (2, 4, 32, 43, 3)
    assert videos.test_example(1)["video"].shape == (2, 4, 32, 32, 3)
    record = prepared.as_data_source("train")[3]
    expected = read_frames(record["video"], [0, 2, 4, 6, 32, 34, 36, 38], short_side=32)
    np.testing.assert_array_equal(videos.test_example(3)["video"].reshape(8, *expected.shape[1:]), expected)
    with pytest.raises(InputError, match="num_crops: found 3"):
        open_prepared(prepared.data_path, "train", **OPTIONS | {"test_crop": 0})


@pytest.fixture(scope="module")
def actions(tmp_path_factory, pan, encode):
    """Videos of several actions, one of them at a variable rate, prepared."""
    root = tmp_path_factory.mktemp("actions")
    encode(root / "a.mp4", pan(30), g=12)  # 25 frames per second
    encode(root / "b.mkv", pan(20), times=np.arange(20) ** 2 * 10, g=5)  # frame i after i * i / 100 seconds
    items = (
        Item("a", "a.mp4", "train", -1, (Action(2, 0.0, 0.4), Action(0, 0.41, 0.6), Action(1, 1.18, 50.0))),
        Item("b", "b.mkv", "train", -1, (Action(1, 0.3, 1.0), Action(1, 2.0, 2.2), Action(0, 3.3, 3.5))),
        Item("c", None, "train", -1),
    )
    listing = Listing(items, ("hold", "put", "take"), multi_label=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write.Charades, "list_source", staticmethod(lambda source, split: listing))
        return prepare("charades", root, tmp_path_factory.mktemp("prepared"))


def test_actions_are_kept_by_frame(actions):
    videos = open_prepared(actions.data_path, "train")
    assert videos.multi_label
    assert videos.actions[0].tolist() == [[2, 0, 10], [0, 11, 15], [1, 29, 29]]
    # The first action shows frames 6 (0.36 s) to 10 (1.0 s). From 2.0 to 2.2 s no new frame is shown, and frame 14
    # (1.96 s) is nearest to the middle.
    assert videos.actions[1].tolist() == [[1, 6, 10], [1, 14, 14], [0, 18, 18]]


def test_a_clip_has_the_labels_of_its_own_frames(actions):
    videos = open_prepared(actions.data_path, "train")
    np.testing.assert_array_equal(videos.test_example(0)["label"], np.ones(3, np.float32), strict=True)
    for index in range(2):
        for seed in range(20):
            clip = videos.train_example(index, np.random.default_rng(seed))
            _, indices = videos._read(
                index,
                lambda n, _, seed=seed: videos._train_indices(n, _first_draw(seed)),
                [(32, None)],
            )
            expected = np.zeros(3, np.float32)
            for label, first, last in videos.actions[index].tolist():
                if set(range(first, last + 1)) & set(range(indices.min(), indices.max() + 1)):
                    expected[label] = 1
            np.testing.assert_array_equal(clip["label"], expected, strict=True)


def _first_draw(seed):
    """Returns the generator from which `train_example` draws the start of a clip."""
    rng = np.random.default_rng(int(np.random.default_rng(seed).integers(2**63)))
    rng.integers(32, 41)
    return rng.spawn(2)[0]


def test_a_list_of_actions_has_a_hash(actions):
    videos = open_prepared(actions.data_path, "train")
    assert len(videos.list_hash()) == 12
    videos.actions[0][0, 1] += 1
    assert videos.list_hash() != open_prepared(actions.data_path, "train").list_hash()


def test_records_from_beam_equal_those_made_here(prepared, folder, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason="the extra `beam` is not installed")
    monkeypatch.setattr(write, "VIDEOS_PER_SHARD", 2)
    builder = BUILDERS["video_folder"](config=config_of("video_folder"), data_dir=tmp_path)
    builder.source = folder
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(beam_runner="DirectRunner"))
    assert builder.info.splits["train"].shard_lengths == prepared.info.splits["train"].shard_lengths
    for ours, theirs in zip(builder.as_data_source("train"), prepared.as_data_source("train"), strict=True):
        assert ours == theirs


def test_finished_records_are_not_made_again_on_beam(prepared, folder, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason="the extra `beam` is not installed")
    builder = BUILDERS["video_folder"](config=config_of("video_folder"), data_dir=tmp_path)
    builder.source, builder.cache = folder, tmp_path / "cache"
    items = write.found_by_split(builder.list_source(folder, 1))["train"]
    keep = builder.preparation(folder)
    assert sum(bool(reason) for _, reason in keep.keep_all(items, num_workers=0, timeout=60.0)) == 1
    monkeypatch.setattr(make, "transcode", None)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(beam_runner="DirectRunner"))
    for ours, theirs in zip(builder.as_data_source("train"), prepared.as_data_source("train"), strict=True):
        assert ours == theirs


def test_a_crash_costs_one_record(folder, tmp_path, monkeypatch):
    crash = Crash("the decoder crashed (exit code -11)")
    monkeypatch.setattr(make, "map_unordered", lambda function, items, **_: iter([(0, crash)]))
    keep = make.Preparation(folder, 32, tmp_path)
    item = Item("bend/a.mp4", "bend/a.mp4", "train", 0)
    shard = write._Shard(keep, (item,), multi_label=False)
    (found,) = shard()
    assert found[0] == "bend/a.mp4" and found[1]["video"] == b"" and found[1]["reason"] == str(crash)


def test_a_missing_reason_is_not_invented(prepared):
    videos = open_prepared(prepared.data_path, "train")
    assert videos.failure_reason(0) == "it decodes now"
    with pytest.raises(DecodeError, match=r"bend/b\.mp4: the file is empty"):
        videos._video(1)
