"""Reads distributed annotation files of copies in which some videos are missing."""

import csv
import json

import pytest

from nl_jax.data.records.write import config_of
from nl_jax.data.sources.charades import charades
from nl_jax.data.sources.kinetics import kinetics
from nl_jax.data.sources.listing import Action, Item
from nl_jax.data.sources.own import own_videos
from nl_jax.data.sources.something import something_something_v2
from nl_jax.data.sources.splits import hmdb51, ucf101
from nl_jax.errors import InputError


@pytest.fixture
def source(tmp_path):
    """source({path: text}) writes the files and returns their folder."""

    def write(files: dict[str, str]):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return write


KINETICS = {
    "annotations/train.csv": "label,youtube_id,time_start,time_end,split\n"
    "zumba,-aaaaaaaaaa,1,11,train\nabseiling,bbbbbbbbbbb,13,23,train\nabseiling,ccccccccccc,0,10,train\n",
    "annotations/validate.csv": '"label","youtube_id","time_start","time_end","split","is_cc"\n'
    '"zumba","ddddddddddd","20","30","val","0"\n',
    "annotations/test.csv": "youtube_id,time_start,time_end,split\neeeeeeeeeee,1,11,test\n",
    "train/zumba/-aaaaaaaaaa_000001_000011.mp4": "",
    "train/abseiling/bbbbbbbbbbb.mkv": "",
    "val/ddddddddddd_000020_000030.webm": "",
    "train/ddddddddddd_000020_000030.mp4": "",
    "val/fffffffffff_000001_000011.mp4": "",
}


def test_kinetics(source):
    listing = kinetics(source(KINETICS), 2)
    assert listing.classes == ("abseiling", "zumba")
    assert listing.items == (
        Item("-aaaaaaaaaa_000001_000011", "train/zumba/-aaaaaaaaaa_000001_000011.mp4", "train", 1, duration=10.0),
        Item("bbbbbbbbbbb_000013_000023", "train/abseiling/bbbbbbbbbbb.mkv", "train", 0, duration=10.0),
        Item("ccccccccccc_000000_000010", None, "train", 0, duration=10.0),
        Item("ddddddddddd_000020_000030", "val/ddddddddddd_000020_000030.webm", "validation", 1, duration=10.0),
    )
    assert listing.unlisted == ("train/ddddddddddd_000020_000030.mp4", "val/fffffffffff_000001_000011.mp4")
    assert not listing.multi_label


def test_lines_without_a_label_need_no_times(source):
    without = {"annotations/test.csv": "youtube_id,time_start,time_end,split\neeeeeeeeeee,,,test\n"}
    assert kinetics(source(KINETICS | without), 2) == kinetics(source(KINETICS), 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations/train.csv": "label,youtube_id,time_start\n"}, r"train\.csv, line 1: .*time_end"),
        ({"annotations/train.csv": KINETICS["annotations/train.csv"] + "a,b\n"}, r"train\.csv, line 5: the number"),
        ({"annotations/train.csv": KINETICS["annotations/train.csv"] + "zumba,g,x,11,train\n"}, "line 5: .*'x'"),
        ({"annotations/validate.csv": "label,youtube_id,time_start,time_end\njump,h,1,2\n"}, "'jump'"),
        ({"annotations/train.csv": "label,youtube_id,time_start,time_end\nzumba,a,1,2\n"}, "has 1 classes, valid is 2"),
    ],
)
def test_wrong_kinetics(change, message, source):
    with pytest.raises(InputError, match=message):
        kinetics(source(KINETICS | change), 2)


def as_json(table: str) -> str:
    """Returns a CSV list of Kinetics in the form of DeepMind's JSON."""
    videos = {}
    for row in csv.DictReader(table.splitlines()):
        segment = {"segment": [float(row["time_start"]), float(row["time_end"])]}
        videos[row["youtube_id"]] = {
            "annotations": segment | ({"label": row["label"]} if "label" in row else {}),
            "subset": row["split"],
        }
    return json.dumps(videos)


def test_kinetics_by_its_json_lists(source):
    root = source(KINETICS)
    by_csv = kinetics(root, 2)
    for file in list(root.rglob("*.csv")):
        file.with_suffix(".json").write_text(as_json(file.read_text()))
        file.unlink()
    assert kinetics(root, 2) == by_csv


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"train\.json: not a JSON text"),
        ("[]", r"train\.json: found a list"),
        ('{"aaa": {"annotations": {"label": "zumba", "segment": [1]}}}', r"train\.json, video aaa: found .*segment"),
        ('{"aaa": {"annotations": {"label": "zumba"}}}', r"train\.json, video aaa: found .*zumba"),
        ('{"aaa": 3}', r"train\.json, video aaa: found 3"),
    ],
)
def test_wrong_json_of_kinetics(text, message, source):
    with pytest.raises(InputError, match=message):
        kinetics(source({"train.json": text}), 2)


def test_a_copy_without_lists_says_what_is_missing(source):
    with pytest.raises(InputError, match=r"found no train\.csv or"):
        kinetics(source({"train/a.mp4": ""}), 2)


CHARADES = {
    "Charades_v1_classes.txt": "c000 Holding some clothes\nc001 Putting clothes somewhere\nc002 Taking some clothes\n",
    "Charades/Charades_v1_train.csv": "id,subject,script,actions,length\n"
    'YYYYY,A,"He holds, and puts",c000 11.90 21.20;c002 0.00 12.60,30.5\nXXXXX,B,nothing,,12\n',
    "Charades/Charades_v1_test.csv": "id,subject,script,actions,length\nZZZZZ,A,x,c001 1.0 2.0,10.0\n",
    "Charades_v1_480/YYYYY.mp4": "",
    "Charades_v1_480/ZZZZZ.mp4": "",
}


def test_charades(source):
    listing = charades(source(CHARADES))
    assert listing.multi_label
    assert listing.classes == ("Holding some clothes", "Putting clothes somewhere", "Taking some clothes")
    assert listing.items == (
        Item("XXXXX", None, "train", -1, duration=12.0),
        Item("YYYYY", "Charades_v1_480/YYYYY.mp4", "train", -1, (Action(0, 11.9, 21.2), Action(2, 0.0, 12.6)), 30.5),
        Item("ZZZZZ", "Charades_v1_480/ZZZZZ.mp4", "test", -1, (Action(1, 1.0, 2.0),), 10.0),
    )


@pytest.mark.parametrize("action", ["c009 1.0 2.0", "c001 1.0", "c001 1.0 x"])
def test_wrong_charades(action, source):
    wrong = {"Charades/Charades_v1_test.csv": f"id,actions,length\nZZZZZ,{action},10.0\n"}
    with pytest.raises(InputError, match=r"Charades_v1_test\.csv, line 2: found"):
        charades(source(CHARADES | wrong))


UCF101 = {
    "ucfTrainTestlist/classInd.txt": "1 ApplyEyeMakeup\r\n2 Archery\r\n",
    "ucfTrainTestlist/trainlist02.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1\n"
    "Archery/v_Archery_g01_c01.avi 2\n",
    "ucfTrainTestlist/testlist02.txt": "Archery/v_Archery_g02_c01.avi\n",
    "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi": "",
    "UCF-101/Archery/v_Archery_g02_c01.avi": "",
}


def test_ucf101(source):
    listing = ucf101(source(UCF101), 2)
    assert listing.classes == ("ApplyEyeMakeup", "Archery")
    first = "v_ApplyEyeMakeup_g01_c01.avi"
    assert listing.items == (
        Item(f"ApplyEyeMakeup/{first}", f"UCF-101/ApplyEyeMakeup/{first}", "train", 0),
        Item("Archery/v_Archery_g01_c01.avi", None, "train", 1),
        Item("Archery/v_Archery_g02_c01.avi", "UCF-101/Archery/v_Archery_g02_c01.avi", "test", 1),
    )
    with pytest.raises(InputError, match=r"found no trainlist01\.txt"):
        ucf101(source({}), 1)


def test_wrong_ucf101(source):
    with pytest.raises(InputError, match=r"testlist02\.txt, line 1: found 'Jump/a\.avi'"):
        ucf101(source(UCF101 | {"ucfTrainTestlist/testlist02.txt": "Jump/a.avi\n"}), 2)
    with pytest.raises(InputError, match=r"classInd\.txt, line 1: found 'Archery'"):
        ucf101(source(UCF101 | {"ucfTrainTestlist/classInd.txt": "Archery\n"}), 2)


def test_hmdb51(source):
    """The same file name in two classes, names with odd characters, and videos that no split uses."""
    files = {
        "splits/brush_hair_test_split3.txt": "a_#1_(x).avi 1 \nb.avi 2 \nc.avi 0 \n",
        "splits/cartwheel_test_split3.txt": "b.avi 1 \nd.avi 2 \n",
        "brush_hair/a_#1_(x).avi": "",
        "brush_hair/b.avi": "",
        "brush_hair/c.avi": "",
        "cartwheel/b.avi": "",
    }
    listing = hmdb51(source(files), 3)
    assert listing.classes == ("brush_hair", "cartwheel")
    assert listing.items == (
        Item("brush_hair/a_#1_(x).avi", "brush_hair/a_#1_(x).avi", "train", 0),
        Item("cartwheel/b.avi", "cartwheel/b.avi", "train", 1),
        Item("brush_hair/b.avi", "brush_hair/b.avi", "test", 0),
        Item("cartwheel/d.avi", None, "test", 1),
    )
    assert listing.unlisted == ()
    with pytest.raises(InputError, match=r"CLASS_test_split1\.txt"):
        hmdb51(source({}), 1)


SOMETHING = {
    "lists/something-something-v2-labels.json": json.dumps(
        {"Pushing something from left to right": "1", "Holding something": "0"}
    ),
    "lists/something-something-v2-train.json": json.dumps(
        [
            {"id": "78687", "label": "holding a pen", "template": "Holding [something]", "placeholders": ["a pen"]},
            {"id": "9", "label": "", "template": "Pushing [something] from left to right", "placeholders": []},
        ]
    ),
    "lists/something-something-v2-validation.json": '[{"id": "42326", "template": "Holding [something]"}]',
    "lists/something-something-v2-test.json": '[{"id": "1420"}]',
    "20bn-something-something-v2/78687.webm": "",
    "20bn-something-something-v2/42326.webm": "",
    "20bn-something-something-v2/1420.webm": "",
}


@pytest.mark.parametrize("renamed", [False, True])
def test_something_something(source, renamed):
    files = {name.replace("something-something-v2-", "") if renamed else name: SOMETHING[name] for name in SOMETHING}
    listing = something_something_v2(source(files), 2)
    assert listing.classes == ("Holding something", "Pushing something from left to right")
    folder = "20bn-" if renamed else "20bn-something-something-v2/"
    found = {item.name: (item.path, item.split, item.label) for item in listing.items}
    assert list(found) == ["9", "78687", "42326"] and found["9"] == (None, "train", 1)
    assert found["78687"][1:] == ("train", 0) and found["42326"][1:] == ("validation", 0)
    assert found["78687"][0].startswith(folder.rstrip("/")) and listing.unlisted == (
        found["42326"][0].replace("42326", "1420"),
    )


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("labels", '{"Holding something": "0"}', r"found 1 classes with the numbers 0 and so on, valid are 2 classes"),
        ("labels", "[1]", "found a list, valid is an object of classes and their numbers"),
        ("train", "{}", "found a dict, valid is a list of videos"),
        ("train", "[{]", "not a JSON text in UTF-8"),
        ("train", '[{"id": "x", "template": "Holding [something]"}]', r"found the video .*valid is .*NUMBER"),
        ("train", "[3]", r"found the video 3, valid is"),
        (
            "validation",
            '[{"id": "5", "template": "Eating [something]"}]',
            "video 5: found the class 'Eating something'",
        ),
    ],
)
def test_wrong_something_something(name, text, message, source):
    with pytest.raises(InputError, match=message):
        something_something_v2(source(SOMETHING | {f"lists/something-something-v2-{name}.json": text}), 2)


def test_a_folder_of_ones_own(source):
    root = source({"walk/a.mp4": "", "bend/b.avi": "", "bend/notes.txt": ""})
    listing = own_videos(root)
    assert listing.items == (Item("bend/b.avi", "bend/b.avi", "train", 0), Item("walk/a.mp4", "walk/a.mp4", "train", 1))
    assert (listing.classes, listing.unlisted) == (("bend", "walk"), ("bend/notes.txt",))


def test_folders_and_lists_of_splits(source):
    root = source({"train/walk/a.mp4": "", "val.csv": "more/b.mp4,bend\n", "more/b.mp4": "", "test/bend/c.mp4": ""})
    assert own_videos(root).items == (
        Item("train/walk/a.mp4", "train/walk/a.mp4", "train", 1),
        Item("more/b.mp4", "more/b.mp4", "validation", 0),
        Item("test/bend/c.mp4", "test/bend/c.mp4", "test", 0),
    )
    assert own_videos(root / "val.csv").items == (Item("more/b.mp4", "more/b.mp4", "train", 0),)


def test_configurations():
    assert (config_of("charades").short_side, config_of("charades").name) == (320, "short320")
    assert (config_of("kinetics400").short_side, config_of("kinetics400", short_side=0).short_side) == (256, None)
    assert config_of("ucf101", split=3, short_side=0).name == "split3_original"
    for wrong in ({"split": 4}, {"short_side": -1}, {"short_side": 1}):
        with pytest.raises(InputError, match=f"^{next(iter(wrong))}: found"):
            config_of("hmdb51", **wrong)
    with pytest.raises(InputError, match="split: found 2"):
        config_of("charades", split=2)


@pytest.mark.parametrize(
    ("read", "file"), [(lambda source: ucf101(source, 1), "classInd.txt"), (charades, "Charades_v1_classes.txt")]
)
def test_lists_of_another_encoding(read, file, tmp_path):
    (tmp_path / file).write_bytes("1 Caf\u00e9\n".encode("latin1"))
    with pytest.raises(InputError, match=f"{file}: not a text in UTF-8"):
        read(tmp_path)


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "classInd.txt").write_text("1 A\n", encoding="utf-8-sig")
    (tmp_path / "trainlist01.txt").write_text("A/v_A_1.avi 1\n", encoding="utf-8-sig")
    (tmp_path / "testlist01.txt").touch()
    assert [item.name for item in ucf101(tmp_path, 1).items] == ["A/v_A_1.avi"]
