"""Prepares a dataset for training, as ArrayRecord shards of small H.264 videos or of images; or checks a dataset.

python -m experiments.prepare_data --dataset=kinetics400 --source=VIDEOS_AND_LISTS --data_dir=OUT
python -m experiments.prepare_data --dataset=kinetics400 --source=VIDEOS_AND_LISTS --check --report=DIR

The first command can be stopped at any time, and then continues. docs/data.md says where to find the datasets.
"""

import contextlib
import fcntl
import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from absl import flags

from experiments import check_data, command_line
from experiments.check_data import console
from nl_jax.data.records.read import write_index
from nl_jax.data.records.write import BUILDERS, SECONDS_PER_VIDEO, config_of, found_by_split, root_of
from nl_jax.errors import InputError
from nl_jax.places import Place, cache_directory, is_bucket, make_directory, place, send

DATASET = flags.DEFINE_enum("dataset", None, [*BUILDERS, "coco"], "name of the dataset (required)", required=True)
ANNOTATIONS = flags.DEFINE_enum(
    "annotations", "instances", ("instances", "person_keypoints"), "kind of annotation files, for coco"
)
MASKS = flags.DEFINE_bool("masks", True, "whether every annotation of coco instances must have a mask")
SOURCE = flags.DEFINE_string("source", None, "folder of the videos or images and their lists (required)", required=True)
DATA_DIR = flags.DEFINE_string("data_dir", None, "directory for the prepared dataset; required without --check")
SPLIT = flags.DEFINE_integer("split", 1, "number of the official split, 1, 2 or 3, for ucf101 and hmdb51")
SHORT_SIDE = flags.DEFINE_integer(
    "short_side", None, "short side of a video in pixels; 0 keeps the size; by default 256, or 320 for charades"
)
NUM_WORKERS = flags.DEFINE_integer("num_workers", os.cpu_count(), "number of processes that decode", 0)
TIMEOUT = flags.DEFINE_float("timeout", SECONDS_PER_VIDEO, "maximum seconds to decode one file", 1)
CHECK = flags.DEFINE_bool("check", False, "decode every file and report all faults; prepare nothing; needs --report")
REPORT = flags.DEFINE_string("report", None, "directory for report.csv and index.html, which --check writes")
BEAM_RUNNER = flags.DEFINE_string(
    "beam_runner",
    None,
    "make the shards with this runner of Apache Beam, such as DirectRunner; by default without Beam",
)
BEAM_OPTIONS = flags.DEFINE_multi_string("beam_options", [], "an option of the runner, written as --name=value")


def main() -> None:
    source, of_file = Path(SOURCE.value), DATASET.value == "coco" and SOURCE.value.endswith(".json")
    if not (of_file or source.exists()):
        raise InputError(f"--source: there is no file or folder {source}")
    if CHECK.value and not REPORT.value:
        raise InputError("--report is not given; --check writes report.csv and index.html to this directory")
    if not CHECK.value:
        command_line.refuse_flags("report", why="without --check, which writes it")
    if BEAM_RUNNER.value is None:
        command_line.refuse_flags("beam_options", why="without --beam_runner")
    if DATASET.value == "coco":
        command_line.refuse_flags("split", "short_side", why="with --dataset=coco, which keeps its splits and images")
        _coco()
        return
    command_line.refuse_flags("annotations", "masks", why="without --dataset=coco")
    config = config_of(DATASET.value, split=SPLIT.value, short_side=SHORT_SIDE.value)
    builder_class = BUILDERS[DATASET.value]
    listing = builder_class.list_source(source, config.split)
    found = found_by_split(listing)
    if not found:
        raise InputError(f"--source: none of the {len(listing.items)} videos in the lists is in {source}")
    for split in dict.fromkeys(item.split for item in listing.items):
        listed = sum(item.split == split for item in listing.items)
        console.print(f"{split}: found {len(found.get(split, ()))} of the {listed} listed videos")
    if CHECK.value:
        check_data.check_videos(listing, root_of(source), **_of_check())
        return
    data_dir = _local_data_dir()
    builder = builder_class(config=config, data_dir=data_dir)
    builder.source = source
    goal = _goal(Path(builder.data_path), data_dir)
    if _is_there(goal):
        return
    with _only_one(data_dir / f".preparing_{builder.name}_{config.name}") as unfinished:
        if Path(builder.data_path).exists():
            console.print(f"{builder.data_path} is already prepared; remove it to prepare it again")
        else:
            builder.cache = unfinished.resolve()  # an absolute path, because Beam's workers use it too
            if BEAM_RUNNER.value is None:
                items = [item for of_split in found.values() for item in of_split]
                _make_records(builder.preparation(root_of(source)), items)
            _write(builder, unfinished)
        rows = write_index(Path(builder.data_path))
        _send(Path(builder.data_path), goal)
        _tell(builder, rows, goal)
        shutil.rmtree(unfinished)


def _coco() -> None:
    from nl_jax.data.coco import records  # imports pycocotools, which videos do not need
    from nl_jax.data.coco.source import find_splits

    kind = ANNOTATIONS.value
    splits = find_splits(SOURCE.value, kind)
    if CHECK.value:
        keypoints = kind == "person_keypoints"
        check_data.check_coco(splits, masks=MASKS.value and not keypoints, keypoints=keypoints, **_of_check())
        return
    data_dir = _local_data_dir()
    builder = records.Coco(config=records.config_of(kind), data_dir=data_dir)
    builder.splits = splits
    directory = Path(builder.data_path)
    goal = _goal(directory, data_dir)
    if _is_there(goal):
        return
    with _only_one(data_dir / f".preparing_{builder.name}_{kind}") as unfinished:
        if directory.exists():
            console.print(f"{directory} is already prepared; remove it to prepare it again")
        else:
            _write(builder, unfinished)
        for split, found in records.write_annotations(directory, splits, kind, masks=MASKS.value).items():
            instances = sum(len(image.instances) for image in found.images)
            console.print(f"{split}: {len(found.images)} images, {instances} annotations, {len(found.problems)} faults")
            for problem in found.problems[:10]:
                console.print(f"  {problem}")
        _send(directory, goal)
        shutil.rmtree(unfinished)
    console.print(f"wrote {goal}; train on it with --config.data.train={goal}:{next(iter(splits))}")


def _of_check() -> dict:
    return {
        "report": place("--report", REPORT.value),
        "title": f"{DATASET.value}: {SOURCE.value}",
        "num_workers": NUM_WORKERS.value,
        "timeout": TIMEOUT.value,
    }


def _local_data_dir() -> Path:
    """Returns the folder where this program makes the dataset.

    It is --data_dir, or a local folder if --data_dir is in a bucket, because shards can only be written to local files.
    """
    if not DATA_DIR.value:
        raise InputError("--data_dir is not given; give a directory for the prepared dataset")
    data_dir = place("--data_dir", DATA_DIR.value)
    if is_bucket(data_dir):
        if BEAM_RUNNER.value not in (None, "DirectRunner"):
            raise InputError(
                f"--data_dir={data_dir}: the workers of {BEAM_RUNNER.value} write to a shared file system; mount "
                "the bucket on every machine (gcsfuse, mountpoint-s3) and give that folder"
            )
        make_directory(data_dir)
        data_dir = cache_directory() / "preparing" / hashlib.sha256(str(data_dir).encode()).hexdigest()[:32]
    data_dir.mkdir(parents=True, exist_ok=True)
    return data_dir


def _goal(directory: Path, data_dir: Path) -> Place:
    """Returns the final place of the dataset: the directory where it is made, or the bucket of --data_dir."""
    if not is_bucket(DATA_DIR.value):
        return directory
    return place("--data_dir", DATA_DIR.value) / directory.relative_to(data_dir).as_posix()


def _is_there(goal: Place) -> bool:
    """Returns whether the bucket already has the dataset, and prints a line if it has."""
    found = is_bucket(goal) and (goal / "dataset_info.json").exists()
    if found:
        console.print(f"{goal} is already prepared; remove it to prepare it again")
    return found


def _send(directory: Path, goal: Place) -> None:
    """Sends the dataset to its bucket, if it has one, and then removes the local directory."""
    if is_bucket(goal):
        with console.status(f"sending the dataset to {goal}"):
            send(directory, goal)
        shutil.rmtree(directory)


def _make_records(preparation, items) -> None:
    """Writes the record of every item to the cache, with all processes."""
    left = [item for item in items if not preparation.done(item)]
    if len(left) < len(items):
        console.print(f"{len(items) - len(left)} of {len(items)} videos are already prepared")
    with check_data.counted("videos", len(left), NUM_WORKERS.value) as count:
        for item, reason in preparation.keep_all(left, num_workers=NUM_WORKERS.value, timeout=TIMEOUT.value):
            if reason:
                console.print(f"cannot be prepared: {item.path}: {reason}")
            count(bool(reason))


def _write(builder, unfinished: Path) -> None:
    """Writes the shards from the cache or with Beam. Before that, it removes unfinished directories of earlier runs."""
    for partial in Path(builder.data_path).parent.glob("incomplete.*"):
        shutil.rmtree(partial)
    download_config = tfds.download.DownloadConfig(manual_dir=root_of(Path(SOURCE.value)))
    if BEAM_RUNNER.value is not None:
        try:
            from apache_beam.options.pipeline_options import PipelineOptions
        except ImportError as error:
            raise InputError('--beam_runner: Apache Beam is not installed; pip install -e ".[beam]"') from error
        download_config.beam_runner = BEAM_RUNNER.value
        download_config.beam_options = PipelineOptions(BEAM_OPTIONS.value)
    with console.status("writing the shards"), contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_dir=unfinished / "downloads", download_config=download_config)


def _tell(builder, rows, goal: Place) -> None:
    first = next(iter(rows))
    for split, lines in rows.items():
        bad = [row for row in lines if row.reason]
        shards = builder.info.splits[split].num_shards
        size = builder.info.splits[split].num_bytes / 1e9
        console.print(f"{split}: {len(lines)} videos, {len(bad)} of them empty; {shards} shards, {size:.3f} GB")
        for row in bad[:10]:
            console.print(f"  empty: {row.path}: {row.reason}")
    console.print(f"wrote {goal}; train on it with --config.data.train={goal}:{first}")


@contextlib.contextmanager
def _only_one(directory: Path) -> Iterator[Path]:
    """Yields the directory of unfinished work. Raises InputError if another process uses it."""
    directory.mkdir(exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"--data_dir: another process is preparing the same dataset in {directory}") from None
        yield directory


if __name__ == "__main__":
    command_line.run(main)
