"""Tests a trained network: n clips x crops of every video, softmax averaged.

python -m experiments.evaluate --workdir=runs/quickstart
python -m experiments.evaluate --workdir=runs/folder --data=VIDEOS --num_clips=10 --num_crops=3
python -m experiments.evaluate --workdir=runs/long --mesh=time=4 --batch_size=8
"""

from pathlib import Path

import jax
from absl import flags
from rich.progress import Progress

from experiments import command_line, processes
from nl_jax.data import clips
from nl_jax.errors import Preempted
from nl_jax.evaluation.views import predict
from nl_jax.training import sharding, workdir
from nl_jax.training.loop import describe_results
from nl_jax.training.preemption import Preemption
from nl_jax.training.setup import SPLITS, make_dataset, make_resnet_config, measured_on
from nl_jax.training.step import make_forward, make_normalize
from nl_jax.training.watchdog import Watchdog

WORKDIR = flags.DEFINE_string("workdir", None, "the workdir of the run to test", required=True)
SPLIT = flags.DEFINE_enum("split", "test", SPLITS, "which videos of the run's own data")
DATA = flags.DEFINE_string("data", None, "other videos: a folder with one sub-folder per class, or a CSV of path,label")
NUM_CLIPS = flags.DEFINE_integer("num_clips", None, "clips per video, evenly spaced; the config's by default")
NUM_CROPS = flags.DEFINE_integer("num_crops", None, "crops per clip, 1 or 3; the config's by default")
STARTS = flags.DEFINE_enum("starts", None, clips.STARTS, "where test clips start; the config's by default")
SHORT_SIDE = flags.DEFINE_integer("test_short_side", None, "that frames are scaled to; the config's by default")
CROP = flags.DEFINE_integer("test_crop", None, "side of a crop, 0 for whole frames with --num_crops=1; the config's")
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "videos at a time; the config's by default")
MESH = flags.DEFINE_string(
    "mesh", "", "of the devices here, as config.mesh, such as time=4; all split videos by default"
)
CHECKPOINT = flags.DEFINE_enum("checkpoint", "newest", ("newest", "best"), "best is by validation accuracy")
OUT = flags.DEFINE_string("out", None, "where predictions.npz and results.json go; WORKDIR/evaluate by default")


def main() -> None:
    processes.join()
    directory = Path(WORKDIR.value)
    config = workdir.read_config(directory).unlock()
    for flag in (NUM_CLIPS, NUM_CROPS, STARTS, SHORT_SIDE, CROP):
        if flag.value is not None:
            if flag.name not in config.data:
                command_line.fail(f"--{flag.name}: the videos of data.name={config.data.name!r} have one view each", 2)
            config.data[flag.name] = flag.value
    if DATA.value is not None:
        if config.data.name != "video_folder":
            command_line.fail(f"--data: {directory} was trained on data.name={config.data.name!r}, not on videos", 2)
        config.data[SPLIT.value] = DATA.value
    batch_size = config.eval_batch_size if BATCH_SIZE.value is None else BATCH_SIZE.value

    # The devices here may be others than those of the run.
    axes = command_line.mesh_axes(MESH.value) if MESH.value else {}
    mesh = sharding.make_mesh(**{"data": -1, "fsdp": 1} | axes)
    sharding.check_batch("batch_size", batch_size, mesh)
    dataset = make_dataset(config.data, SPLIT.value, workdir.read_classes(directory))
    if mesh.shape["time"] > 1:
        frames = dataset.test_example(0)["video"].shape[1]
        sharding.check_frames(make_resnet_config(config.model, len(dataset.classes)).frames(frames), mesh)
    graphdef, params, batch_stats = workdir.load_network(directory, mesh, best=CHECKPOINT.value == "best")
    forward = make_forward(graphdef, make_normalize(config.input), mesh, multi_label=dataset.multi_label)

    watchdog = Watchdog(print, warn_after=config.input_warning, end_after=config.input_timeout)
    try:
        with Preemption() as preemption, watchdog, Progress(disable=jax.process_index() != 0) as progress:
            if jax.process_index() == 0:
                print(f"testing {len(dataset)} videos on {mesh.size} device(s)", flush=True)
            task = progress.add_task("testing", total=len(dataset))
            predictions = predict(
                lambda video: forward(params, batch_stats, video),
                lambda batch: sharding.put_batch(batch, mesh),
                dataset,
                batch_size=batch_size,
                num_workers=config.num_workers,
                rows=sharding.local_rows(mesh, batch_size),
                on_batch=lambda videos: progress.update(task, completed=videos),
                watch=lambda batches: preemption.over(watchdog.over(batches, "batch for testing")),
            )
    except Preempted:
        raise Preempted("asked to end: nothing is written; the same command tests again from the first video") from None
    results = predictions.metrics() | {
        "measured_on": DATA.value or measured_on(config.data, SPLIT.value),
        "chance": 1 / len(dataset.classes),
        "undecodable_videos": [dataset.names[index] for index in predictions.failed.nonzero()[0]],
    }
    if jax.process_index() == 0:
        out = Path(OUT.value) if OUT.value else directory / "evaluate"
        workdir.make_directory(out)
        predictions.save(out / "predictions.npz", dataset)
        workdir.write_json(out / "results.json", results)
        for index in predictions.failed.nonzero()[0]:
            print(f"cannot be decoded: {dataset.names[index]}: {dataset.failure_reason(int(index))}")
        print(describe_results(results))
        print(f"scores of every video: {out / 'predictions.npz'}")


if __name__ == "__main__":
    command_line.run(main)
