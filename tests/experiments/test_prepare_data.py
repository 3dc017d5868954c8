"""The program as a user types it: killed and resumed, checking broken files, and its errors."""

import csv
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio_ffmpeg
import pytest
import tensorflow_datasets as tfds
from PIL import Image

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"COLUMNS": "200"}


def program(*arguments) -> list[str]:
    return [sys.executable, "-m", "experiments.prepare_data", "--dataset=video_folder", *arguments]


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(program(*arguments), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def records(data_dir: Path) -> list[dict]:
    (directory,) = data_dir.glob("video_folder/*/1.0.0")
    return list(tfds.builder_from_directory(directory).as_data_source("train"))


@pytest.fixture(scope="module")
def source(video_folder, tmp_path_factory):
    """16 videos and an empty file. Half of the videos are copies under other names."""
    folder = tmp_path_factory.mktemp("source")
    shutil.copytree(video_folder, folder, dirs_exist_ok=True)
    for file in sorted(folder.rglob("clip.*")):
        for copy in range(3):
            shutil.copy(file, file.with_stem(f"copy{copy}"))
    (folder / "flower/empty.mp4").touch()
    return folder


@pytest.fixture
def not_utf8(tmp_path):
    """A folder with an empty file whose name is Latin-1."""
    (tmp_path / "latin/walk").mkdir(parents=True)
    (tmp_path / "latin/walk" / os.fsdecode(b"caf\xe9.mp4")).touch()
    return tmp_path / "latin"


def test_killed_twice_and_finished_equals_uninterrupted(source, tmp_path):
    whole = run(f"--source={source}", f"--data_dir={tmp_path / 'whole'}", "--num_workers=1")
    assert whole.returncode == 0, whole.stderr
    assert "train: 17 videos, 1 of them empty" in whole.stdout
    assert "cannot be prepared: flower/empty.mp4: the file is empty" in whole.stdout
    assert re.search(r"17 videos took \d+\.\d s with \d+ processes: \d+\.\d min for a thousand", whole.stdout)

    moments = random.Random(0)
    killed = program(f"--source={source}", f"--data_dir={tmp_path / 'killed'}", "--num_workers=1")
    cache = tmp_path / "killed/.preparing_video_folder_short256"
    kept = []
    for least in (3, 9):
        process = subprocess.Popen(killed, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        while process.poll() is None and sum(1 for _ in cache.glob("*/*")) < least:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.05))
        assert process.poll() is None, "it ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept.append({file: file.stat().st_mtime_ns for file in cache.glob("*/*") if not file.suffix})
    # The program removes the unfinished files of a run that was killed while it wrote shards.
    unfinished = tmp_path / "killed/video_folder/short256/incomplete.0_1.0.0"
    unfinished.mkdir(parents=True)

    last = subprocess.Popen(killed, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    while cache.exists() and (now := {file: file.stat().st_mtime_ns for file in kept[1] if file.exists()}):
        assert now.items() <= kept[1].items(), "a finished record must not be made again"
        time.sleep(0.01)
    said, _ = last.communicate(timeout=300)
    assert last.returncode == 0
    assert kept[0].items() <= kept[1].items() and len(kept[1]) >= 9
    assert int(re.search(r"(\d+) of 17 videos are already prepared", said).group(1)) >= len(kept[1])
    assert not cache.exists() and not unfinished.exists()
    assert records(tmp_path / "killed") == records(tmp_path / "whole")
    index = [file.read_bytes() for file in sorted(tmp_path.glob("*/video_folder/*/1.0.0/videos_train.csv"))]
    assert len(index) == 2 and index[0] == index[1]

    again = run(f"--source={source}", f"--data_dir={tmp_path / 'whole'}")
    assert again.returncode == 0 and "is already prepared" in again.stdout


def test_check_accounts_for_every_file(source, tmp_path):
    copy = shutil.copytree(source, tmp_path / "copy")
    (copy / "pagoda/text.mp4").write_text("no video\n" * 50)
    (copy / "pagoda/notes.txt").write_text("notes")
    lying = copy / "flower/clip.avi"
    lying.write_bytes(lying.read_bytes()[: lying.stat().st_size * 3 // 4])
    done = run(f"--source={copy}", "--check", f"--report={tmp_path / 'report'}", "--num_workers=2")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "report/report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["path"] for row in rows) == sorted(
        path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()
    )
    wrong = {row["path"]: row["status"] for row in rows if row["status"] != "ok"}
    assert wrong == {
        "flower/empty.mp4": "unreadable",
        "pagoda/text.mp4": "unreadable",
        "pagoda/notes.txt": "unlisted",
        "flower/clip.avi": "truncated",
    }
    assert re.search(r"train\s*│ 15 │ 2\s*│ 1", done.stdout)
    assert (tmp_path / "report/index.html").exists()


def test_one_file_ends_nothing(tmp_path):
    """A camera's picture, a live recording, and a video that decodes but does not fit an MP4."""
    (tmp_path / "videos/walk/photos").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a camera"
    for number in (1, 2):
        Image.new("RGB", (80, 64), (200, 30, 30)).save(tmp_path / f"videos/walk/photos/{number}.jpg", exif=exif)
    picture = ["-f", "lavfi", "-i", "testsrc2=d=4:r=30:s=96x64", "-c:v", "libx264", "-pix_fmt", "yuv420p"]
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *picture]
    live = subprocess.run([*ffmpeg, "-f", "matroska", "pipe:1"], check=True, capture_output=True).stdout
    (tmp_path / "videos/walk/live.mkv").write_bytes(live)
    leap = ["-vf", "setpts='if(lt(N,9),PTS,PTS+25200/TB)'", "-fps_mode", "passthrough"]
    subprocess.run([*ffmpeg, *leap, tmp_path / "videos/walk/leap.mkv"], check=True)

    checked = run(f"--source={tmp_path / 'videos'}", "--check", f"--report={tmp_path / 'report'}")
    assert checked.returncode == 0, checked.stderr
    with (tmp_path / "report/report.csv").open(newline="") as file:
        rows = {row["path"]: (row["status"], row["frames"]) for row in csv.DictReader(file)}
    assert rows["walk/live.mkv"] == ("ok", "120") and rows["walk/photos"] == ("ok", "2") and len(rows) == 3
    prepared = run(f"--source={tmp_path / 'videos'}", f"--data_dir={tmp_path / 'out'}")
    assert prepared.returncode == 0, prepared.stderr
    assert "cannot be prepared: walk/leap.mkv: its frames cannot be written as H.264" in prepared.stdout
    found = {record["path"].decode(): record for record in records(tmp_path / "out")}
    assert {path: record["frames"] for path, record in found.items()} == {
        "walk/leap.mkv": 0,
        "walk/live.mkv": 120,
        "walk/photos": 2,
    }


def test_names_need_not_be_utf8(not_utf8, tmp_path):
    command = program(f"--source={not_utf8}", f"--data_dir={tmp_path / 'out'}", "--num_workers=0")
    environment = ENVIRONMENT | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert rb"walk/caf\udce9.mp4: the file is empty" in done.stdout
    assert records(tmp_path / "out")[0]["path"] == b"walk/caf\xe9.mp4"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source=/no/such", "--data_dir=D"], "--source: there is no file or folder /no/such"),
        (["--source=S"], "--data_dir is not given"),
        (["--source=S", "--check"], "--report is not given"),
        (["--source=S", "--data_dir=D", "--dataset=ucf101"], r"found no classInd\.txt"),
        (["--source=S", "--data_dir=D", "--dataset=imagenet"], "dataset.*kinetics400"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_2(arguments, message, source, tmp_path):
    done = run(*(a.replace("=S", f"={source}").replace("=D", f"={tmp_path / 'out'}") for a in arguments))
    assert done.returncode == 2, done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("error: ")
