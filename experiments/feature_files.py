"""Writes the features of videos, one file a video. Files that exist stay. A list names the undecodable videos."""

import csv
import json
import os
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from experiments.named_videos import named_videos
from nl_jax.data.media.failure import DecodeError
from nl_jax.data.video.stream import is_stream
from nl_jax.errors import InputError
from nl_jax.places import make_directory
from nl_jax.runs.features import Extractor, Features
from nl_jax.training import workdir

BAD = "bad_videos.csv"


def write(extractor: Extractor, arguments: list[str], out: Path, every: float = 0.0) -> tuple[int, int]:
    """Writes OUT/NAME.npz for every named video whose file does not exist yet, and OUT/bad_videos.csv.

    Args:
      extractor: computes the features.
      arguments: videos, folders or patterns.
      out: the folder OUT.
      every: maximum seconds from clip to clip, as in `Extractor`.

    Returns:
      (number of videos that could not be read, number of all videos).

    Raises:
      InputError: the folder has features of another network, of another layer or of other clips; or two videos have the
        same name.
    """
    make_directory(out)
    _claim(out, extractor.settings() | {"every": every})
    videos = _videos(arguments, out, stills=extractor.frames == 1)
    waiting = [video for video in videos if video[2] or not video[1].exists()]
    console = Console(highlight=False)
    console.print(
        f"{len(videos)} videos, {len(videos) - len(waiting)} of them have features already; layer {extractor.layer}"
    )
    bad = []
    with Progress(console=console) as progress:
        for name, path, problem in progress.track(waiting, description="videos"):
            try:
                if problem:
                    raise DecodeError(name, problem)
                _write(path, extractor(name, every))
            except DecodeError as error:
                bad.append((name, error.reason))
                console.print(f"skipped: {name}: {error.reason}")
    with (out / BAD).open("w", newline="", errors="surrogateescape") as file:
        csv.writer(file).writerows([("video", "reason"), *bad])
    return len(bad), len(videos)


def _claim(out: Path, settings: dict[str, object]) -> None:
    """Writes the settings to the folder. Raises InputError if the folder has features with other settings."""
    path = out / "features.json"
    if path.exists():
        found = json.loads(path.read_text())
        if differing := [
            f"{name} was {found.get(name)!r} and is now {settings[name]!r}"
            for name in settings
            if found.get(name) != settings[name]
        ]:
            raise InputError(
                f"--out: {out} has features with other settings: {'; '.join(differing)}. Choose another folder"
            )
    workdir.write_json(path, settings)


def _videos(arguments: list[str], out: Path, *, stills: bool) -> list[tuple[str, Path, str]]:
    """Returns (video, its file of features, the reason why it cannot be read or "") for every video.

    Raises:
      InputError: two videos have the same file of features, or an argument is a stream.
    """
    found: dict[Path, str] = {}
    videos = []
    for name, relative, problem in named_videos(arguments, stills=stills):
        if is_stream(name):
            raise InputError(f"{name} is a camera or standard input, which has no features file; give files")
        path = out / f"{relative}.npz"
        if not problem:
            if path in found:
                raise InputError(f"{found[path]} and {name} would both write {path}; give the folder that holds both")
            found[path] = name
        videos.append((name, path, problem))
    return videos


def _write(path: Path, features: Features) -> None:
    """Writes the file as a whole: a program that is killed leaves no partial file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez(file, clips=features.clips, seconds=features.seconds, features=features.features)
    os.replace(part, path)
