"""Measures the throughput of training clips, of nl_jax and of other decoders, on the same file in the same run.

pip install -e ".[benchmark]"
python -m experiments.benchmark input
python -m experiments.benchmark input --video=VIDEO.mp4 --num_workers=2

Every contestant has its own processes, which make random clips. A clip has 32 frames, every other frame of the video,
resized to a random short side of 256 to 320 and cropped to 224 x 224. nl_jax is measured on the file and on the record
that `prepare_data` makes of it, with one, two and four clips from each decoded video (`data.clips_per_decode`). The
contestants take turns, and each figure is the median over the turns. Clips per second need an idle machine, because a
decoder with many threads takes processor time from others. On a busy machine the processor time is more reliable.
"""

import argparse
import functools
import importlib
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import av
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images

from nl_jax.data.loader import TrainBatches
from nl_jax.data.media import decode, to_rgb
from nl_jax.data.records.read import PreparedVideos
from nl_jax.data.video import videos
from nl_jax.data.video.clips import random_place, train_indices
from nl_jax.data.video.folder import VideoFolder
from nl_jax.errors import InputError

FRAMES, STRIDE, CROP, SHORT_SIDE = 32, 2, 224, (256, 320)

# (path of a video, rng) -> uint8 (n,t,h,w,3), one clip or several clips of one decoding
MakeClips = Callable[[str, np.random.Generator], Sequence[np.ndarray]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--video", type=Path, help="video file; by default the program makes one of 300 frames of 340 x 256 pixels"
    )
    parser.add_argument("--num_workers", type=int, default=2, help="processes of a contestant; by default %(default)s")
    parser.add_argument("--clips", type=int, default=16, help="clips of a turn, of all processes; default %(default)s")


def run(arguments: argparse.Namespace) -> None:
    """Prints the results of `measure` as a table, and writes them to input.json."""
    if arguments.video is not None:
        decode.probe(arguments.video)
    found = measure(
        arguments.video, num_workers=arguments.num_workers, rounds=max(3, arguments.repeats), clips=arguments.clips
    )
    _show(found)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "input.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"wrote {arguments.out / 'input.json'}")


def measure(
    video: Path | None = None, *, num_workers: int = 2, rounds: int = 9, clips: int = 16, only: tuple[str, ...] = ()
) -> dict[str, dict[str, float]]:
    """Returns the figures of each contestant, medians over the rounds.

    The figures are clips_per_second; cpu_seconds, the processor time of a clip; ratio, our clips per second over the
    clips per second of the contestant; and cpu_ratio, the processor time of the contestant over ours.

    The entry `nl_jax` also has decode, resize and rest, the fractions of the time of a clip in one process; and wait,
    the fraction of time that a consumer of the loader waits if it only takes batches of two clips.

    Args:
      video: a video file; None makes one.
      num_workers: processes of each contestant.
      rounds: number of turns of each contestant.
      clips: clips of a turn, over all processes.
      only: names of contestants; by default all that are installed.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "videos"
        (folder / "class").mkdir(parents=True)
        path = folder / "class" / "video.mp4"
        if video is None:
            make_video(path)
        else:
            path.symlink_to(video.resolve())
        if not only or any(name.startswith(PREPARED) for name in only):
            _prepare(folder)
        pools, per_call = {}, {}
        for name, (module, make) in CONTESTANTS.items():
            if (not only or name in only) and _works(module):
                pool = multiprocessing.get_context("spawn").Pool(num_workers, _start, (make, str(path)))
                pools[name] = stack.enter_context(pool)
                counts = pool.map(_clips, range(2 * num_workers), chunksize=1)  # loads all modules and the file
                per_call[name] = counts[0][0]
        seconds: dict[str, list[float]] = {name: [] for name in pools}
        cpu_seconds: dict[str, list[float]] = {name: [] for name in pools}
        for turn in range(rounds):
            for name, pool in list(pools.items())[:: 1 if turn % 2 else -1]:
                start = time.perf_counter()
                calls = -(-clips // per_call[name])
                found = pool.map(_clips, [turn * calls + i for i in range(calls)], chunksize=1)
                seconds[name].append((time.perf_counter() - start) / (calls * per_call[name]))
                cpu_seconds[name] += [cpu / count for count, cpu in found]
        wall = {name: float(np.median(times)) for name, times in seconds.items()}
        cpu = {name: float(np.median(times)) for name, times in cpu_seconds.items()}
        result = {
            name: {
                "clips_per_second": 1 / wall[name],
                "ratio": wall[name] / wall["nl_jax"],
                "cpu_seconds": cpu[name],
                "cpu_ratio": cpu[name] / cpu["nl_jax"],
            }
            for name in pools
        }
        result["nl_jax"] |= shares(folder, clips) | {"wait": wait(folder, num_workers, clips)}
        return result


def _prepare(folder: Path) -> None:
    command = [sys.executable, "-m", "experiments.prepare_data", "--dataset=video_folder", f"--source={folder}"]
    done = subprocess.run([*command, f"--data_dir={folder.parent / 'prepared'}"], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"--video: prepare_data failed: {done.stderr}")


def make_video(path: Path) -> None:
    """Writes 300 frames of 340 x 256 pixels at 30 per second as H.264: a window that moves over two photographs."""
    photos = load_sample_images().images
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
        for i in range(300):
            photo = photos[i // 150]
            y, x = (round(room * (0.5 + 0.5 * np.sin(i / 40 + k))) for k, room in enumerate((427 - 256, 640 - 340)))
            image = np.ascontiguousarray(photo[y : y + 256, x : x + 340])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def shares(folder: Path, clips: int) -> dict[str, float]:
    """Returns the fractions of our time for a clip in this process: decode, resize (to RGB), and the rest."""
    spent = {"decode": 0.0, "resize": 0.0}

    def timed(name, function):
        def call(*arguments, **options):
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent[name] += time.perf_counter() - start

        return call

    def timed_frames(*arguments, **options):
        frames = real_frames(*arguments, **options)
        following = timed("decode", functools.partial(next, frames, None))
        while (frame := following()) is not None:
            yield frame

    real_frames, real_resize = decode.decode_frames, to_rgb.ToRgb.__call__
    decode.decode_frames, to_rgb.ToRgb.__call__ = timed_frames, timed("resize", real_resize)
    try:
        dataset = _folder(folder)
        start = time.perf_counter()
        for seed in range(clips):
            dataset.train_example(0, np.random.default_rng(seed))
        total = time.perf_counter() - start
    finally:
        decode.decode_frames, to_rgb.ToRgb.__call__ = real_frames, real_resize
    found = {name: value / total for name, value in spent.items()}
    return found | {"rest": 1 - sum(found.values())}


def wait(folder: Path, num_workers: int, clips: int) -> float:
    """Returns the fraction of time that a consumer of the loader waits if it only takes the batches."""
    batches = TrainBatches(_folder(folder), batch_size=2, seed=0, num_workers=num_workers)
    next(batches)
    waited, start = 0.0, time.perf_counter()
    for _ in range(clips):
        began = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - began
    total = time.perf_counter() - start
    batches.close()
    return waited / total


OPTIONS = dict(
    **dict(frames=FRAMES, stride=STRIDE, crop=CROP, short_side=SHORT_SIDE),
    **dict(test_crop=CROP, test_short_side=SHORT_SIDE[0], num_clips=1, num_crops=1),
)


@functools.cache
def _folder(folder: Path) -> videos.Videos:
    return VideoFolder(folder, **OPTIONS)


@functools.cache
def _records(data_dir: Path) -> videos.Videos:
    return PreparedVideos(data_dir, "train", **OPTIONS)


def _nl_jax(path: str, rng: np.random.Generator, count: int = 1) -> list[np.ndarray]:
    return [example["video"] for example in _folder(Path(path).parents[1]).train_examples(0, rng, count)]


def _nl_jax_prepared(path: str, rng: np.random.Generator, count: int = 1) -> list[np.ndarray]:
    return [example["video"] for example in _records(Path(path).parents[2] / "prepared").train_examples(0, rng, count)]


def _decord(path: str, rng: np.random.Generator, threads: int) -> list[np.ndarray]:
    import decord

    reader = decord.VideoReader(path, num_threads=threads)
    return [_scaled_and_cropped(reader.get_batch(train_indices(len(reader), FRAMES, STRIDE, rng)).asnumpy(), rng)]


def _torchcodec(path: str, rng: np.random.Generator) -> list[np.ndarray]:
    import torch
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(1)  # converts to RGB with these threads; with several, the processes wait for each other
    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1)
    indices = train_indices(len(decoder), FRAMES, STRIDE, rng)
    return [_scaled_and_cropped(decoder.get_frames_at(indices.tolist()).data.numpy(), rng)]


def _scaled_and_cropped(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scales and crops a clip with OpenCV, as data loaders with these decoders do."""
    import cv2

    cv2.setNumThreads(1)
    side = int(rng.integers(SHORT_SIDE[0], SHORT_SIDE[1] + 1))
    height, width = clip.shape[1:3]
    size = (round(width * side / min(height, width)), round(height * side / min(height, width)))
    top, left = random_place(size[1], size[0], CROP, rng)
    scaled = [cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR) for frame in clip]
    cropped = np.stack([frame[top : top + CROP, left : left + CROP] for frame in scaled])
    return cropped.take(np.arange(CROP)[::-1], axis=2) if rng.integers(2) else cropped


PREPARED = "nl_jax, prepared"
OURS = ("nl_jax", "tensorflow_datasets")  # modules that ours need; the others resize with OpenCV
CONTESTANTS: dict[str, tuple[str, MakeClips]] = {  # name: (module that it needs, function that makes clips)
    "nl_jax": ("nl_jax", _nl_jax),
    **{f"nl_jax, {n} of a decode": ("nl_jax", functools.partial(_nl_jax, count=n)) for n in (2, 4)},
    PREPARED: ("tensorflow_datasets", _nl_jax_prepared),
    **{f"{PREPARED}, {n} of a decode": (OURS[1], functools.partial(_nl_jax_prepared, count=n)) for n in (2, 4)},
    "decord, one thread": ("decord", functools.partial(_decord, threads=1)),
    "decord, its own threads": ("decord", functools.partial(_decord, threads=0)),
    "torchcodec": ("torchcodec.decoders", _torchcodec),
}


def _works(module: str) -> bool:
    try:
        importlib.import_module(module)
        importlib.import_module("cv2" if module not in OURS else module)
    except (ImportError, OSError, RuntimeError):  # not installed, or a library is missing
        return False
    return True


def _start(make: MakeClips, path: str) -> None:
    global _make, _path
    _make, _path = make, path


def _clips(seed: int) -> tuple[int, float]:
    """Returns the number of clips that one call makes, and its processor seconds over all threads."""
    start = time.process_time()
    clips = _make(_path, np.random.default_rng(seed))
    assert all(clip.shape == (FRAMES, CROP, CROP, 3) for clip in clips)
    return len(clips), time.process_time() - start


def _show(found: dict[str, dict[str, float]]) -> None:
    table = Table("contestant", "clips/s", "ours over it", "ms of processor a clip", "it over ours")
    for name, row in found.items():
        milliseconds = f"{1000 * row['cpu_seconds']:.1f}"
        table.add_row(
            name, f"{row['clips_per_second']:.1f}", f"{row['ratio']:.2f}x", milliseconds, f"{row['cpu_ratio']:.2f}x"
        )
    console = Console()
    console.print(table)
    ours = found["nl_jax"]
    parts = ", ".join(f"{part} {ours[part]:.0%}" for part in ("decode", "resize", "rest"))
    console.print(f"Time of a clip of ours: {parts}.")
    console.print(f"A consumer that only takes batches waits for {ours['wait']:.0%} of its time.")
    for name in CONTESTANTS.keys() - found.keys():
        console.print(f"{name}: skipped, because it is not installed or cannot be loaded")
