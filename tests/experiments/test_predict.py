"""Scores of a video equal the scores of testing, in Python and as a program. Bad files are skipped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs import common, folder
from experiments.named_videos import named_videos
from nl_jax import Predictor
from nl_jax.data.video.folder import VideoFolder
from nl_jax.errors import InputError
from nl_jax.models import VideoResNet, flat
from nl_jax.tasks import restore_network, task_of
from nl_jax.tasks.resnet_fields import make_resnet_config
from nl_jax.training import sharding, workdir
from nl_jax.training.checkpoint import Checkpoints
from nl_jax.training.evaluator import Evaluator
from nl_jax.training.step import TrainState

ROOT = Path(__file__).parents[2]
CLASSES = ("flower", "pagoda")


@pytest.fixture
def run(tmp_path, randomise):
    """The workdir of a small network with random parameters."""
    config = folder.get_config().unlock()
    config.model.width, config.data.frames, config.data.num_clips, config.data.num_crops = 4, 4, 3, 3
    model = randomise(lambda: VideoResNet(make_resnet_config(config.model, 2), rngs=nnx.Rngs(0)))
    _, params, batch_stats = flat.split(model)
    state = TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optax.identity().init(params))
    workdir.write_workdir(tmp_path / "run", config, CLASSES)
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(state, {})
    return tmp_path / "run"


@pytest.mark.parametrize("crop", [64, 0])
def test_scores_are_those_of_testing(run, video_folder, crop):
    config = workdir.read_config(run).unlock()
    config.data.test_crop, config.data.num_crops = crop, 3 if crop else 1
    workdir.write_workdir(run, config, CLASSES)
    fields = {name: value for name, value in config.data.to_dict().items() if name not in ("name", "train", "test")}
    fields = {name: value for name, value in fields.items() if not name.startswith(("validation", "clips_per_decode"))}
    dataset = VideoFolder(video_folder, **fields)
    mesh = sharding.make_mesh(data=-1, fsdp=1)
    graphdef, *arrays = restore_network(run, mesh)
    task = task_of(config)
    tested = Evaluator(graphdef, task.forward(dataset), mesh)(task, *arrays, dataset)
    predictor = Predictor.of_workdir(run)
    for index, name in enumerate(dataset.names):
        found = predictor.file(str(video_folder / name), every=0.0)
        np.testing.assert_allclose(found.scores, tested.scores[index], atol=1e-5)
        views = tested.view_scores[index].reshape(len(found.seconds), found.crops, 2)
        np.testing.assert_allclose(found.clip_scores, views.mean(axis=1), atol=1e-5)
        assert found.clip_scores[found.surest.number].max() == found.clip_scores.max()
    longer = predictor.file(str(video_folder / name), every=0.1)
    assert len(longer.seconds) == 12, "a clip for each tenth of 1.2 seconds"


@pytest.mark.parametrize(
    "file, text",
    [
        ("results.json", '{"video_map": 0.5}'),
        ("metrics.csv", "step,validation_video_top1,validation_video_map\n5,,\n10,,0.5\n"),  # of an unfinished run
    ],
)
def test_several_labels_take_the_highest_score(file, text, run, video_folder):
    (run / file).write_text(text)
    found = Predictor.of_workdir(run).file(str(video_folder / "flower" / "clip.mp4"), every=0.0)
    np.testing.assert_array_equal(found.scores, found.clip_scores.max(axis=0))
    assert not np.isclose(found.scores.sum(), 1)


def test_a_network_of_another_kind_of_data_is_refused(run):
    config = workdir.read_config(run).unlock()
    config.data.name = "long_range"
    workdir.write_workdir(run, config, CLASSES)
    with pytest.raises(InputError, match=r"data.name='long_range', and predict .*configs/folder\.py"):
        Predictor.of_workdir(run)


def program(*arguments, stdin=None, name="predict") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "COLUMNS": "40"}
    return subprocess.run(command, cwd=ROOT, env=environment, stdin=stdin, capture_output=True, text=True, timeout=600)


def test_a_folder_a_pattern_and_a_pipe(run, video_folder_with_broken_files, tmp_path):
    videos, broken = video_folder_with_broken_files
    out = tmp_path / "out"
    with (videos / "flower" / "clip.mp4").open("rb") as stdin:
        done = program(
            *(f"--workdir={run}", videos / "flower", f"{videos}/pagoda/*.mp4", "/no/such.mp4", "-", "--json"),
            *(f"--out={out}", "--block=res3_0_nonlocal", "--position=1,1,1"),
            stdin=stdin,
        )
    assert done.returncode == 1, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    bad = {line["video"] for line in lines if "error" in line}
    assert bad == {*(str(videos / name) for name in broken), "/no/such.mp4"}
    assert all(f"skipped: {name}" in done.stderr for name in bad)
    assert done.stderr.splitlines()[-1] == "error: 3 of 7 videos could not be read"
    for line in lines:
        if "error" not in line:
            scores = [entry["score"] for entry in line["top"]]
            assert sum(scores) == pytest.approx(1, abs=1e-5) and scores == sorted(scores, reverse=True)
            assert len(line["clips"]) == (2 if line["video"] == "-" else 3)
    stems = ("clip", "clip-2", "clip-3", "stream")
    kinds = ("scores", "res3_0_nonlocal_1-1-1_heat", "res3_0_nonlocal_1-1-1_arrows")
    assert {path.name for path in out.iterdir()} == {f"{stem}_{kind}.png" for stem in stems for kind in kinds}


def test_a_stream_is_told_clip_by_clip_and_what_cannot_be_used_is_one_line(run, tmp_path):
    name = "lavfi:testsrc2=rate=25:size=160x120:duration=60"
    done = program(f"--workdir={run}", name, "--seconds=2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" s  ") == 3 and f"{name}  3 clips x 3 crops\n" in done.stdout and "█" in done.stdout
    for arguments, code, message in (
        (["video.mp4"], 2, "either --workdir, or --model, or --checkpoint"),
        ([f"--workdir={run}", "--min_score=0.2", name], 2, "--min_score has no effect with a network of class"),
        ([f"--workdir={run}", tmp_path / "none"], 2, "1 of 1 videos could not be read"),
    ):
        done = program(*arguments)
        assert done.returncode == code and message in done.stderr.splitlines()[-1], done.stderr
        assert "Traceback" not in done.stderr


def test_numbered_images_are_frames_unless_a_clip_of_the_network_is_one_image(tmp_path):
    for name in ("red/1.jpg", "red/2.jpg", "blue/1.jpg", "blue/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for given, of_frames in ((tmp_path / "red", ["red"]), (tmp_path, ["blue", "red"])):
        assert [name for _, name, _ in named_videos([str(given)])] == of_frames
        images = [path for path, _, _ in named_videos([str(given)], stills=True)]
        assert images == sorted(map(str, given.rglob("*.jpg")))
    (tmp_path / "red" / "a.mp4").touch()
    found = [name for _, name, _ in named_videos([str(tmp_path / "red")], stills=True)]
    assert found == ["1.jpg", "2.jpg", "a.mp4"]


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("predict --block=res3_0_nonlocal VIDEO", "--block has no effect without --out"),
        ("predict --config=configs/folder.py VIDEO", "--config has no effect with --workdir"),
        ("attend --image=1", "--image has no effect in a run of classification, where --video chooses the video"),
        ("attend --measure=1 --view=1", "--view has no effect with --measure"),
    ],
)
def test_a_flag_that_the_program_would_ignore_is_refused(command, error, run):
    config = workdir.read_config(run).unlock()
    config.data = common.long_range_data()  # needs no file
    workdir.write_workdir(run, config, tuple(map(str, range(5))))
    name, *arguments = command.split()
    done = program(f"--workdir={run}", *arguments, name=name)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {error}"), done.stderr
    assert done.stderr.count("\n") == 1


def test_a_published_detector_takes_no_flags_of_another_network():
    done = program("--model=torchvision_maskrcnn_resnet50_fpn", "--num_classes=3", "IMAGE.jpg")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: --num_classes has no effect with --model, which describes the network")
