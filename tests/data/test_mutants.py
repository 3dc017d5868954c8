"""Damaged videos, with changed bytes, cut ends, spliced parts and inflated sizes, only cost their own row.

MUTANTS=300 pytest -n0 tests/data/test_mutants.py is the long form.
"""

import os
import random
import re
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from nl_jax.data.media.failure import DecodeError, ShortVideoError
from nl_jax.data.records.make import Preparation
from nl_jax.data.sources.listing import Item
from nl_jax.data.video.check import STATUSES, Inspection
from nl_jax.data.video.clips import test_indices as clip_indices
from nl_jax.data.video.folder import VideoFolder
from nl_jax.data.video.stream import clips_of_file
from nl_jax.data.workers import map_unordered

COUNT = int(os.environ.get("MUTANTS", "21"))
SECONDS = 60.0  # maximum time for one file
MEMORY = 2 * 2**20  # KiB
ORIGINALS = {
    "h264.mp4": {"g": 12, "bf": 2, "audio": True},
    "hevc.mkv": {"codec": "libx265", "x265-params": "keyint=12:log-level=none"},
    "mpeg4.avi": {"codec": "mpeg4", "g": 12, "bf": 1},
    "vp8.webm": {"codec": "libvpx", "g": 12, "deadline": "realtime", "cpu-used": 8},
    "mpeg2.ts": {"codec": "mpeg2video", "g": 12, "bf": 2},
    "mjpeg.mov": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "gif.gif": {"codec": "gif", "pixels": "rgb8"},
}
SIZE = (64, 48)


def mutate(data: bytes, other: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Returns (description of the damage, damaged bytes)."""
    kind = rng.choice(("bytes", "cut", "hole", "splice", "header", "giant", "zeros"))
    changed = bytearray(data)
    at = rng.randrange(len(data))
    if kind == "bytes":
        for _ in range(rng.choice((1, 5, 50))):
            changed[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == "cut":
        del changed[at:]
    elif kind == "hole":
        del changed[at : at + rng.choice((1, 100, 2000))]
    elif kind == "splice":
        changed[at:] = other[rng.randrange(len(other)) :]
    elif kind == "header":
        for _ in range(rng.choice((1, 3))):
            changed[rng.randrange(min(900, len(data)))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
    elif kind == "giant":
        width, height = rng.choice(((65535, 65535), (16384, 16384), (16000, 2), (2, 16000), (8000, 8000)))
        for order in ("little", "big"):
            for old, new in zip(SIZE, (width, height), strict=True):
                for length in (4, 2):
                    place = changed.find(old.to_bytes(length, order), 0, 2000)
                    if place >= 0:
                        changed[place : place + length] = new.to_bytes(length, order)
                        break
    else:
        changed[at : at + 500] = bytes(len(changed[at : at + 500]))
    return kind, bytes(changed)


def everything_and_memory(folder: Path, item: Item) -> str:
    """Returns the result of `everything`, and the system's peak memory of this process in KB."""
    said = everything(folder, item)
    (most,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return f"{said}\n{most}"


def everything(folder: Path, item: Item) -> str:
    """Checks, prepares, trains on, tests and predicts a file. Returns its status in the report."""
    path = folder / item.path
    finding = Inspection(folder, ("walk",))(item)
    record = Preparation(folder, 256)(item)
    assert bool(record["video"]) != bool(record["reason"])
    assert finding.line.status != "unreadable" or record["reason"], "what gives no frame has no record"
    options = dict(crop=112, short_side=(128, 160), test_crop=128, test_short_side=128, num_clips=10, num_crops=3)
    (folder / f"{item.path}.csv").write_text(f"{item.path},walk\n")
    videos = VideoFolder(folder / f"{item.path}.csv", frames=8, stride=2, **options)
    clips = []
    for seed in (0, 0, 1):
        try:
            clips.append(videos.train_example(0, np.random.default_rng(seed))["video"])
        except DecodeError as error:
            clips.append(str(error))
    np.testing.assert_array_equal(clips[0], clips[1], err_msg="the same in every run")
    views = videos.test_example(0)
    assert views["video"].shape == (30, 8, 128, 128, 3)
    promised = None
    for _ in range(2):
        try:
            list(clips_of_file(path, lambda n, _: clip_indices(n, 8, 2, 10), 128, promised))
            break
        except ShortVideoError as error:
            promised = error.frames
        except DecodeError:
            assert finding.line.status == "unreadable" or isinstance(clips[0], str) or views["failed"][0] == 0
            break
    return f"{finding.line.status}: {finding.line.reason}"


def test_every_mutant_is_one_row(tmp_path, pan, encode):
    rng = random.Random(0)
    originals = {name: encode(tmp_path / name, pan(24, *SIZE), **how).read_bytes() for name, how in ORIGINALS.items()}
    folder = tmp_path / "mutants"
    folder.mkdir()
    items = []
    for i in range(COUNT):
        name = list(originals)[i % len(originals)]
        kind, data = mutate(originals[name], rng.choice(list(originals.values())), rng)
        file = folder / f"{i:03d}_{kind}_{name}"
        file.write_bytes(data)
        items.append(Item(file.name, file.name, "train", 0))
    rows = dict(map_unordered(partial(everything_and_memory, folder), items, num_workers=2, timeout=SECONDS))
    assert sorted(rows) == list(range(COUNT))
    said = {items[index].path: str(row) for index, row in rows.items()}
    crashed = {path: row for path, row in said.items() if row.split(":")[0] not in STATUSES}
    most = max(int(row.rpartition("\n")[2]) for path, row in said.items() if path not in crashed)
    print(Counter(row.split(":")[0] for row in said.values()), f"{most / 2**10:.0f} MB at most")
    assert not crashed
    assert most < MEMORY
