"""Folders of real users: with links, with numbers as classes, of the wrong level, from another system."""

import os
import unicodedata
from functools import partial
from pathlib import Path

import pytest

from nl_jax.data.media.picture_folder import frames_of_folder
from nl_jax.data.open import open_videos
from nl_jax.data.records.make import Preparation
from nl_jax.data.records.write import found_by_split
from nl_jax.data.sources.charades import charades
from nl_jax.data.sources.folder import find_videos
from nl_jax.data.sources.kinetics import kinetics
from nl_jax.data.sources.own import own_videos
from nl_jax.data.sources.splits import hmdb51
from nl_jax.data.sources.walk import walk
from nl_jax.errors import InputError

make = partial(
    open_videos,
    frames=1,
    stride=1,
    crop=24,
    short_side=(32, 40),
    test_crop=32,
    test_short_side=32,
    num_clips=1,
    num_crops=1,
)
DECOMPOSED, COMPOSED = (unicodedata.normalize(form, "Übung") for form in ("NFD", "NFC"))


@pytest.fixture
def tree(tmp_path):
    """tree("a/1.mp4", .., link="../target") makes empty files and links below a new folder, and returns it."""
    root = tmp_path / "set"
    root.mkdir()

    def grow(*files: str, links: dict[str, str | Path] | None = None) -> Path:
        for name in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        for name, target in (links or {}).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(target)
        return root

    return grow


def outside(root: Path, *names: str) -> Path:
    """Makes a folder next to `root` with these files."""
    folder = root.parent / "elsewhere"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_links_to_folders_are_followed(tree):
    root = tree("run/1.mp4", links={"walk": "../elsewhere", "run/more": "../../elsewhere/deep"})
    outside(root, "1.mp4", "deep/2.mp4")
    videos = make(root)
    assert videos.names == ["run/1.mp4", "run/more/2.mp4", "walk/1.mp4"], "each folder once, by its first name"
    assert videos.classes == ("run", "walk")
    assert videos.ignored == ["walk/deep"]
    assert [item.path for item in own_videos(root).items] == videos.names
    assert own_videos(root).unlisted == ("walk/deep",)
    assert find_videos(root) == ([Path(name) for name in videos.names], [Path("walk/deep")])


def test_a_folder_has_its_own_name_before_that_of_a_link(tree):
    root = tree("z/1.mp4", "b/2.mp4", links={"a": "z"})
    assert make(root).names == ["b/2.mp4", "z/1.mp4"]
    assert make(root).ignored == ["a"]


@pytest.mark.parametrize("target", [".", "..", "../..", "run", "/"])
def test_loops_of_links_end(target, tree):
    root = tree("run/1.mp4", "walk/1.mp4", links={"run/loop": target, "run/self": "self"})
    below = walk(root)
    assert below.files == [Path("run/1.mp4"), Path("walk/1.mp4")]
    assert (below.again, below.dangling) == (
        ([Path("run/loop")], [Path("run/self")]) if target != "run" else ([], [Path("run/loop"), Path("run/self")])
    )


def test_a_folder_that_cannot_be_read_is_named(tree, monkeypatch):
    root = tree("run/1.mp4", "walk/1.mp4")
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "walk":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)  # the tests may run as root, who may read every folder
    with pytest.raises(InputError, match=r"walk: the folder cannot be read \(Permission denied\)"):
        make(root)


def test_links_to_nothing_are_missing_files(tree):
    root = tree("run/1.mp4", links={"run/2.mp4": "gone.mp4", "walk/3.mp4": "/gone/3.mp4", "run/notes": "gone"})
    videos = make(root)
    assert videos.names == ["run/1.mp4"]
    assert videos.ignored == ["run/2.mp4", "run/notes", "walk/3.mp4"]
    listing = own_videos(root)
    assert {item.name: item.path for item in listing.items} == {
        "run/1.mp4": "run/1.mp4",
        "run/2.mp4": None,
        "walk/3.mp4": None,
    }
    (items,) = found_by_split(listing).values()
    preparation = Preparation(root, None, root / "cache")
    assert [reason for _, reason in preparation.keep_all(items, num_workers=1, timeout=60.0)] == ["the file is empty"]
    assert find_videos(root)[0] == [Path("run/1.mp4"), Path("run/2.mp4"), Path("walk/3.mp4")]
    (root / "list.csv").write_text("run/2.mp4,run\n")
    with pytest.raises(InputError, match=r"line 1: .*2\.mp4 is a link to gone\.mp4, which does not exist"):
        make(root / "list.csv")
    (root / "run/1.mp4").unlink()
    with pytest.raises(InputError, match=r"found no video .* 3 files are links to files that do not exist"):
        make(root)


def test_a_folder_of_frames_with_a_link_to_nothing_does_not_decode(tree):
    root = tree("run/v/1.jpg", "run/v/3.jpg", "walk/1.mp4", links={"run/v/2.jpg": "gone.jpg"})
    videos = make(root)
    assert videos.names == ["run/v", "walk/1.mp4"]
    assert frames_of_folder(root / "run/v") == [str(root / "run/v" / name) for name in ("1.jpg", "2.jpg", "3.jpg")]
    assert videos.test_example(0)["failed"][0] == 0


def test_annotations_and_videos_behind_links(tree):
    root = tree("train.csv", links={"train": "../elsewhere/train", "lists": "../elsewhere/lists"})
    outside(root, "train/aaaaaaaaaaa_000001_000011.mp4", "lists/validate.csv", "lists/run_test_split1.txt")
    (root / "train/bbbbbbbbbbb_000001_000011.mp4").symlink_to("gone.mp4")
    header = "label,youtube_id,time_start,time_end\n"
    (root / "train.csv").write_text(header + "run,aaaaaaaaaaa,1,11\nrun,bbbbbbbbbbb,1,11\n")
    (root / "lists/validate.csv").write_text(header + "run,ccccccccccc,1,11\n")
    paths = [item.path for item in kinetics(root, 1).items]
    assert paths == ["train/aaaaaaaaaaa_000001_000011.mp4", None, None]
    (root / "lists/run_test_split1.txt").write_text("aaaaaaaaaaa_000001_000011.avi 1\n")
    assert [item.path for item in hmdb51(root, 1).items] == ["train/aaaaaaaaaaa_000001_000011.mp4"]
    with pytest.raises(InputError, match="Charades_v1_classes"):
        charades(root)


def test_classes_that_are_numbers(tree):
    root = tree("2019/1.mp4", "2020/1.mp4")
    assert (make(root).classes, make(root).labels) == (("2019", "2020"), [0, 1])
    assert own_videos(root).classes == ("2019", "2020")


def test_labels_without_zero_are_names(tree):
    root = tree("1.mp4", "2.mp4", "3.mp4")
    (root / "list.csv").write_text("1.mp4,10\n2.mp4,9\n3.mp4,1\n")
    assert (make(root / "list.csv").classes, make(root / "list.csv").labels) == (("1", "9", "10"), [2, 1, 0])
    assert own_videos(root / "list.csv").classes == ("1", "9", "10")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ("train/A/1.mp4", "train/B/1.mp4", "val/A/1.mp4"),
            "found the splits train, val in place of classes.*set/train",
        ),
        (("training/A/1.mp4", "testing/A/1.mp4"), "found the splits testing, training in place of classes"),
        (("Train/A/1.mp4", "Val/A/1.mp4"), "found the splits Train, Val in place of classes.*set/Train"),
        (("train/A/1.mp4", "eval/A/1.mp4", "lists/a.csv"), "found the splits eval, train in place of classes"),
        (("train/A/1.mp4", "train/2.mp4", "val/A/1.mp4"), "found the splits train, val in place of classes"),
        (("train/A/1.mp4", "val/A/1.mp4", "spare/1.mp4"), "found the splits train, val in place of classes"),
        (("train/1.mp4", "val/1.mp4"), "found the splits train, val in place of classes; valid is one sub-folder"),
        (("K400/A/1.mp4", "K400/B/1.mp4"), "found one sub-folder, K400, and 2 folders in it.*set/K400"),
    ],
)
def test_folders_of_another_level_are_refused(files, message, tree):
    with pytest.raises(InputError, match=message):
        make(tree(*files))


def test_the_folder_above_the_splits_is_prepared_by_split(tree):
    root = tree("train/A/1.mp4", "train/B/1.mp4", "val/A/1.mp4", "val/B/1.mp4")
    assert own_videos(root).classes == ("A", "B")
    (root / "train").rename(root / "testing")
    with pytest.raises(InputError, match="found the splits testing, val in place of classes"):
        own_videos(root)


@pytest.mark.parametrize(
    "files", [("train/1.mp4", "bus/1.mp4"), ("train/1.mp4", "test/1.mp4", "bus/1.mp4"), ("one/1.mp4", "one/a/2.mp4")]
)
def test_classes_with_the_names_of_splits_are_classes(files, tree):
    assert make(tree(*files)).classes == tuple(sorted({name.split("/")[0] for name in files}))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("valid", "found valid, valid names of splits are train, validation or val, and test"),
        ("Test", "found Test, valid names of splits"),
        ("dev.csv", "found dev.csv, valid names of splits"),
        ("validation", "found validation and val, valid is one of them"),
    ],
)
def test_a_split_that_would_be_left_out_is_refused(name, message, tree):
    root = tree("train/A/1.mp4", "val/A/1.mp4", name if name.endswith(".csv") else f"{name}/A/1.mp4")
    with pytest.raises(InputError, match=message):
        own_videos(root)


def test_lists_come_before_the_folders_of_their_videos(tree):
    root = tree("train/1.mp4", "train/2.mp4", "dev/3.mp4")
    (root / "train.csv").write_text("train/1.mp4,A\ndev/3.mp4,B\n")
    assert [item.path for item in own_videos(root).items] == ["train/1.mp4", "dev/3.mp4"]


def test_videos_beside_the_splits_are_unlisted(tree):
    root = tree("train/A/1.mp4", "val/A/1.mp4", "spare/2.mp4", "3.mp4", "notes.txt", ".cache/4.mp4")
    assert own_videos(root).unlisted == ("3.mp4", "spare/2.mp4")


def test_classes_without_videos_are_named(tree):
    root = tree("run/1.mp4", "walk/notes.txt", "jump/1.mp4")
    videos = make(root)
    assert videos.classes == ("jump", "run", "walk")
    assert videos.empty_classes() == ("walk",)
    (root / "list.csv").write_text("run/1.mp4,0\njump/1.mp4,3\n")
    assert make(root / "list.csv").empty_classes() == ("1", "2")


def test_names_in_two_unicode_forms_are_one_class(tree):
    root = tree(f"{DECOMPOSED}/1.mp4", f"{COMPOSED}/2.mp4", "run/3.mp4")
    videos = make(root)
    assert videos.classes == ("run", COMPOSED)
    assert videos.labels == [1, 0, 1] if videos.names[1] == "run/3.mp4" else [0, 1, 1]
    for form in (DECOMPOSED, COMPOSED):  # the classes of a run on another system
        assert make(root, classes=("run", form)).labels == videos.labels
    (root / "list.csv").write_text(f"{DECOMPOSED}/2.mp4,{DECOMPOSED}\n{COMPOSED}/1.mp4,{COMPOSED}\n", encoding="utf-8")
    assert make(root / "list.csv").classes == (COMPOSED,)
    assert len(make(root / "list.csv")) == 2
    (root / "train.csv").write_text(f"label,youtube_id,time_start,time_end\nrun,{COMPOSED},1,11\n", encoding="utf-8")
    (root / f"{DECOMPOSED}.mp4").touch()
    assert kinetics(root, 1).items[0].path == f"{DECOMPOSED}.mp4"


def test_a_list_has_the_same_hash_in_either_unicode_form(tmp_path):
    hashes = set()
    for form in (DECOMPOSED, COMPOSED):
        (tmp_path / form / form).mkdir(parents=True)
        (tmp_path / form / form / f"{form}.mp4").touch()
        hashes.add(make(tmp_path / form).list_hash())
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n1.mp4,run\n", r"line 1: found the header 'file,label', valid is path,label or none"),
        ("video_path,class\n1.mp4,run\n", r"line 1: found the header"),
        (
            "1.mp4,run\nrun\\2.mp4,run\n",
            r"line 2: there is no file .*forward slashes, and 'run\\\\2\.mp4' has backslash",
        ),
        ("1.mp4,run\ngs://bucket/2.mp4,run\n", r"line 2: found the address 'gs://bucket/2\.mp4'.* download it first"),
        ("https://host/2.mp4,run\n", r"line 1: found the address"),
        ("1.mp4 0\n", r"line 1: found '1\.mp4 0', valid is path,label, with a comma between them"),
        ("1.mp4\t0\n", r"with a comma between them"),
        ("gone.mp4,label\n", r"line 1: there is no file .*gone\.mp4"),
    ],
)
def test_a_list_of_another_program_is_told_for_what_it_is(text, message, tree):
    root = tree("1.mp4")
    (root / "list.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        make(root / "list.csv")
