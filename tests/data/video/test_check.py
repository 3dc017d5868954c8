import csv
import shutil

import numpy as np
import pytest

from nl_jax.data.sources.listing import Action, Item, Listing
from nl_jax.data.video import check as check_module
from nl_jax.data.video.check import Finding, Line, check_copy, count_statuses, finish, write_report
from nl_jax.data.workers import Crash


@pytest.fixture(scope="module")
def found(tmp_path_factory, pan, encode):
    """The findings by path of a copy with one file of every kind."""
    root = tmp_path_factory.mktemp("copy")
    encode(root / "train/good.mp4", pan(50), g=12)
    encode(root / "train/leaked.mp4", pan(50, photo=1), g=12)
    (root / "test").mkdir()
    shutil.copy(root / "train/leaked.mp4", root / "test/again.mp4")
    shutil.copy(root / "train/good.mp4", root / "train/twice in one split.mp4")
    (root / "train/empty.mp4").touch()
    (root / "train/text.mp4").write_text("text" * 100)
    encode(root / "image.png", pan(1), codec="png", pixels="rgb24")
    other = encode(root / "other.png", pan(1, photo=1), codec="png", pixels="rgb24")
    other.rename(root / "train/image named as a video.mp4")
    lying = encode(root / "train/lying.avi", pan(60, 160, 120), codec="mpeg4")
    lying.write_bytes(lying.read_bytes()[: lying.stat().st_size * 6 // 10])
    encode(root / "train/short.mp4", pan(20), g=12)
    paths = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    items = [
        Item(path, path, path.split("/")[0], len(path) % 2, duration=2.5 if "short" in path else None)
        for path in paths
        if path != "image.png"
    ]
    items.append(Item("gone", None, "test", 0))
    items.append(Item("image.png", "image.png", "train", -1, (Action(1, 0.0, 1.0), Action(0, 0.0, 1.0))))
    listing = Listing(tuple(items), ("bend", "walk <b>"), ("train/notes.mp4",))
    findings = finish(check_copy(listing, root, num_workers=0, timeout=60.0))
    assert len(findings) == len(items) + 1
    return {finding.line.path: finding for finding in findings}


def test_every_file_has_one_status(found):
    assert {path: finding.line.status for path, finding in found.items()} == {
        "train/good.mp4": "ok",
        "train/twice in one split.mp4": "ok",
        "train/leaked.mp4": "duplicate",
        "test/again.mp4": "duplicate",
        "train/empty.mp4": "unreadable",
        "train/text.mp4": "unreadable",
        "train/image named as a video.mp4": "image",
        "image.png": "ok",
        "train/lying.avi": "truncated",
        "train/short.mp4": "duration",
        "train/notes.mp4": "unlisted",
        "gone": "missing",
    }
    counts = count_statuses(found.values())
    assert counts["train"] == {"ok": 3, "duplicate": 1, "unreadable": 2, "image": 1, "truncated": 1, "duration": 1}
    assert counts["test"] == {"duplicate": 1, "missing": 1}
    assert counts[""] == {"unlisted": 1}


def test_the_same_bytes_under_two_classes_are_told():
    def of(path, split, label):
        return Finding(Line(path, split, label, "ok"), sha256="same")

    found = {one.line.path: one.line for one in finish([of("a", "train", "run"), of("b", "train", "walk")])}
    assert {line.status for line in found.values()} == {"duplicate"}
    assert found["a"].reason == "the same bytes as b (class walk)"
    assert found["b"].reason == "the same bytes as a (class run)"
    three = finish([of("a", "train", "run"), of("b", "train", "walk"), of("c", "test", "run")])
    assert three[1].line.path == "a" and three[1].line.reason == "the same bytes as c (test)", "a leak is worse"
    assert {one.line.status for one in finish([of("a", "train", "run"), of("b", "train", "run")])} == {"ok"}


def test_reasons_and_facts(found):
    lines = {path: finding.line for path, finding in found.items()}
    assert lines["train/empty.mp4"].reason == "the file is empty"
    assert lines["train/leaked.mp4"].reason == "the same bytes as test/again.mp4 (test)"
    assert lines["train/short.mp4"].reason == "0.80 seconds, the annotations say 2.50"
    assert f"{lines['train/lying.avi'].frames} of 60 frames decode" in lines["train/lying.avi"].reason
    assert (lines["train/good.mp4"].frames, lines["train/good.mp4"].rate, lines["train/good.mp4"].duration) == (
        50,
        25,
        2,
    )
    assert lines["image.png"].label == "bend; walk <b>"
    wrong = ("train/lying.avi", "train/short.mp4", "train/image named as a video.mp4")
    assert all(found[path].thumbnail.shape == (90, 120, 3) for path in wrong)
    assert found["train/good.mp4"].thumbnail is None


def test_a_wrong_rate(tmp_path, pan, encode):
    """The first 40 frames have 25 per second, and the rest follows a minute later: the mean differs from the header."""
    times = np.r_[np.arange(40) * 40, 60_000 + np.arange(40) * 40]
    encode(tmp_path / "a.mkv", pan(80), times=times, g=12)
    listing = Listing((Item("a", "a.mkv", "train", 0),), ("walk",))
    (finding,) = check_copy(listing, tmp_path, num_workers=0, timeout=60.0)
    assert finding.line.status == "rate"
    assert f"{79 / 61.56:.2f} frames per second, the header says" in finding.line.reason


def test_the_files_of_a_report(found, tmp_path):
    write_report(tmp_path / "report", "a <copy>", list(found.values()))
    with (tmp_path / "report/report.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["path", "split", "label", "status", "frames", "rate", "duration", "reason"]
    assert [row[0] for row in rows[1:]] == list(found)
    page = (tmp_path / "report/index.html").read_text()
    assert "<h1>a &lt;copy&gt;</h1>" in page and "walk &lt;b&gt;" in page and "<b>walk" not in page
    assert page.count("<figure>") == 7 and page.count("<img") == 3
    assert len(list((tmp_path / "report/thumbnails").iterdir())) == 3
    assert "<tr><th>missing</th><td>0</td><td>1</td><td>0</td><td class=text>listed, and not in the copy</td>" in page


def test_the_page_stays_short(tmp_path, monkeypatch):
    monkeypatch.setattr(check_module, "_SHOWN", 2)
    findings = [Finding(Line(f"{i}.mp4", "train", "walk", "unreadable")) for i in range(5)]
    write_report(tmp_path, "title", findings)
    assert "and 3 more in report.csv" in (tmp_path / "index.html").read_text()


def test_the_picture_is_not_the_black_that_a_video_begins_with(tmp_path, pan, encode):
    encode(tmp_path / "a.mp4", np.concatenate([np.zeros((20, 48, 64, 3), np.uint8), pan(20)]))
    listing = Listing((Item("a", "a.mp4", "train", 0, duration=10.0),), ("walk",))
    (finding,) = check_copy(listing, tmp_path, num_workers=0, timeout=60.0)
    assert finding.line.status == "duration"
    assert finding.thumbnail.std() > 20


def test_a_crash_is_an_unreadable_file(tmp_path, monkeypatch):
    listing = Listing((Item("a", "a.mp4", "train", 0), Item("b", "b.mp4", "train", 0)), ("walk",))
    monkeypatch.setattr(
        check_module,
        "map_unordered",
        lambda function, items, **_: iter([(1, Crash("the decoder crashed")), (0, Crash("x"))]),
    )
    lines = [finding.line for finding in finish(check_copy(listing, tmp_path, num_workers=2, timeout=60.0))]
    assert [(line.path, line.status, line.reason) for line in lines] == [
        ("a.mp4", "unreadable", "x"),
        ("b.mp4", "unreadable", "the decoder crashed"),
    ]
