r"""What a layer of a network makes of every clip of videos: one .npz a video, for retrieval and localisation.

python -m experiments.features --model=i3d_nln_r50_8x8 --layer=res5 VIDEOS --out=features
python -m experiments.features --workdir=runs/folder --layer=res4_2_nonlocal --nopooled VIDEOS --out=features

OUT/NAME.npz of a video VIDEOS/NAME has `clips` (v,t), the numbers of the frames of its v clips; `seconds` (v,), the
middle of each; and `features` (v,crops,c), or (v,crops,t,h,w,c) with --nopooled. The same command goes on where it
stopped. Videos that cannot be decoded are in OUT/bad_videos.csv. The exit code is 0, 1 if a video could not be read, 2
if none could.
"""

import csv
import json
import os
from pathlib import Path

import numpy as np
from absl import flags
from rich.console import Console
from rich.progress import Progress

from experiments import command_line
from experiments.named_videos import named_videos
from nl_jax.data.failure import DecodeError
from nl_jax.data.stream import is_stream
from nl_jax.errors import InputError
from nl_jax.runs.features import Extractor, Features
from nl_jax.training import workdir

WORKDIR = flags.DEFINE_string("workdir", None, "the workdir of a trained or imported network")
MODEL = flags.DEFINE_string("model", None, "a published network (nl_jax.zoo), in its place")
BEST = flags.DEFINE_bool("best", False, "the checkpoint that was best in validation, not the newest")
LAYER = flags.DEFINE_string("layer", "res5", "a stage, for its last layer, or a layer, such as res4_1_nonlocal")
POOLED = flags.DEFINE_bool("pooled", True, "average over the frames and places of a clip")
EVERY = flags.DEFINE_float("every", 0.0, "seconds from clip to clip, where that is more clips than in testing", 0)
NUM_CLIPS = flags.DEFINE_integer("num_clips", None, "clips per video; as in testing by default", 1)
NUM_CROPS = flags.DEFINE_integer("num_crops", None, "crops per clip, 1 or 3; as in testing by default", 1, 3)
OUT = flags.DEFINE_string("out", None, "where the features go", required=True)


def main(arguments: list[str]) -> None:
    if (WORKDIR.value is None) == (MODEL.value is None):
        raise InputError("give one of --workdir and --model, the network to use")
    options = {"pooled": POOLED.value, "num_clips": NUM_CLIPS.value, "num_crops": NUM_CROPS.value}
    if MODEL.value is not None:
        extractor = Extractor.from_pretrained(MODEL.value, LAYER.value, **options)
    else:
        extractor = Extractor.of_workdir(Path(WORKDIR.value), LAYER.value, best=BEST.value, **options)
    out = Path(OUT.value)
    workdir.make_directory(out)
    _claim(out, extractor.settings() | {"pooled": POOLED.value, "every": EVERY.value})
    videos = _videos(arguments, out)
    waiting = [video for video in videos if video[2] or not video[1].exists()]
    console = Console(highlight=False)
    console.print(f"{len(videos)} videos, {len(videos) - len(waiting)} of them done before; layer {extractor.layer}")
    bad = []
    with Progress(console=console) as progress:
        for name, path, problem in progress.track(waiting, description="videos"):
            try:
                if problem:
                    raise DecodeError(name, problem)
                _write(path, extractor(name, EVERY.value))
            except DecodeError as error:
                bad.append((name, error.reason))
                console.print(f"passed over: {name}: {error.reason}")
    with (out / "bad_videos.csv").open("w", newline="", errors="surrogateescape") as file:
        csv.writer(file).writerows([("video", "reason"), *bad])
    if bad:
        command_line.fail(
            f"{len(bad)} of {len(videos)} videos could not be read: {out / 'bad_videos.csv'}",
            1 if len(bad) < len(videos) else 2,
        )


def _claim(out: Path, settings: dict[str, object]) -> None:
    """Writes what the features of a folder depend on. Raises InputError for a folder of others."""
    path = out / "features.json"
    if path.exists():
        found = json.loads(path.read_text())
        if differing := [
            f"{name} was {found.get(name)!r} and is now {settings[name]!r}"
            for name in settings
            if found.get(name) != settings[name]
        ]:
            raise InputError(f"--out: {out} holds other features: {'; '.join(differing)}. Choose another folder")
    workdir.write_json(path, settings)


def _videos(arguments: list[str], out: Path) -> list[tuple[str, Path, str]]:
    """(video, its file of features, why it is none or ""); InputError for two videos of one name."""
    found: dict[Path, str] = {}
    videos = []
    for name, relative, problem in named_videos(arguments):
        if is_stream(name):
            raise InputError(f"{name}: a camera has no end; features are those of files")
        path = out / f"{relative}.npz"
        if not problem:
            if path in found:
                raise InputError(f"{found[path]} and {name} would both be {path}; give the folder above both")
            found[path] = name
        videos.append((name, path, problem))
    return videos


def _write(path: Path, features: Features) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez(file, clips=features.clips, seconds=features.seconds, features=features.features)
    os.replace(part, path)


if __name__ == "__main__":
    command_line.run(main, "videos, folders or patterns")
