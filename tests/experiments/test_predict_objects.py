"""The output of `experiments.predict` and `experiments.evaluate` for a detection run."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import PIL.Image
import pytest
from flax import nnx

from configs import scenes
from experiments import pictures, predict_objects
from nl_jax.data.coco.masks import drawn
from nl_jax.data.media.failure import DecodeError
from nl_jax.errors import InputError
from nl_jax.models import flat
from nl_jax.runs.detector import frames
from nl_jax.tasks import task_of
from nl_jax.training import workdir
from nl_jax.training.checkpoint import Checkpoints
from nl_jax.training.step import TrainState

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path, randomise):
    """The workdir of a narrow detector with random parameters."""
    config = scenes.get_config("block").unlock()
    narrow = {"fpn_channels": 8, "box_channels": 16, "mask_channels": 8, "pre_nms": 24, "proposals": 16}
    config.detector.update(narrow | {"detections": 5, "score_threshold": 0.01})
    config.model.width, config.data.test_size, config.eval_batch_size = 4, 11, 8
    task = task_of(config)
    classes = task.open_split("test").classes
    _, params, batch_stats = flat.split(randomise(lambda: task.build(len(classes), nnx.Rngs(0))))
    state = TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optax.identity().init(params))
    workdir.write_workdir(tmp_path / "run", config, classes)
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(state, {})
    return tmp_path / "run"


def predict(run, *arguments, out):
    lines = []
    options = {"best": False, "min_score": 0.0, "every": 0.0, "out": out, "print_json": lines.append}
    predict_objects.predict(run, list(map(str, arguments)), **options)
    return lines


def test_objects_of_images_of_any_size_are_told_in_their_pixels_and_drawn(run, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, (height, width) in {"1.png": (96, 192), "2.png": (300, 140)}.items():  # not two frames of a video
        PIL.Image.fromarray(rng.integers(256, size=(height, width, 3), dtype=np.uint8)).save(folder / name)
    out = tmp_path / "out"
    out.mkdir()
    wide, tall = predict(run, f"{folder}/*.png", out=None)
    assert predict(run, folder, out=out) == [wide, tall]
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "more").symlink_to(folder)
    found = predict(run, linked, out=None)
    assert [line["image"] for line in found] == [str(linked / "more" / name) for name in ("1.png", "2.png")]
    assert [Path(line["image"]).name for line in (wide, tall)] == ["1.png", "2.png"] and "frame" not in wide
    assert wide["objects"] and tall["objects"]
    for line, (height, width) in ((wide, (96, 192)), (tall, (300, 140))):
        scores = [one["score"] for one in line["objects"]]
        assert scores == sorted(scores, reverse=True)
        for one in line["objects"]:
            x0, y0, x1, y1 = one["box"]
            assert 0 <= x0 <= x1 <= width + 0.01 and 0 <= y0 <= y1 <= height + 0.01
            assert one["class"] in workdir.read_classes(run) and drawn(one["mask"], height, width).shape == (
                height,
                width,
            )
    for name in ("1.png", "2.png"):
        with PIL.Image.open(out / name) as picture:
            assert max(picture.size) == 800


def test_a_file_that_is_no_picture_is_passed_over(run, tmp_path, capsys):
    PIL.Image.new("RGB", (192, 96)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(SystemExit) as end:
        predict(run, tmp_path / "good.png", tmp_path / "bad.png", tmp_path / "none.png", out=None)
    assert end.value.code == 1
    assert "2 of 3 files could not be read" in capsys.readouterr().err


def test_a_still_image_is_read_whole_and_upright_and_once(tmp_path):
    first, second = (PIL.Image.new("RGB", (96, 60), name) for name in ("red", "blue"))
    first.save(tmp_path / "moving.png", save_all=True, append_images=[second])
    exif = PIL.Image.Exif()
    exif[0x112] = 6
    first.save(tmp_path / "turned.jpg", exif=exif)
    for name, shape in (("moving.png", (60, 96, 3)), ("turned.jpg", (96, 60, 3))):
        ((number, seconds, image),) = frames(str(tmp_path / name))
        assert (number, seconds, image.shape) == (0, 0.0, shape) and image[..., 0].min() > 250 > 10 > image[
            ..., 2
        ].max()
    photo = np.random.default_rng(0).integers(0, 256, (60, 96, 3), np.uint8)
    PIL.Image.fromarray(photo).save(tmp_path / "half.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "half.jpg").read_bytes()[:3000])
    with pytest.raises(DecodeError, match=r"half\.jpg: no whole image can be decoded"):
        next(frames(str(tmp_path / "half.jpg")))


def test_two_processes_find_what_one_finds(run, tmp_path):
    def start(out, *joined):
        command = [sys.executable, "-m", "experiments.evaluate", f"--workdir={run}", f"--out={tmp_path / out}", *joined]
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=-1, stderr=-1, text=True)

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    joined = [f"--coordinator=localhost:{port}", "--num_processes=2"]
    processes = [start("one"), *(start("two", *joined, f"--process_id={i}") for i in range(2))]
    for process in processes:
        _, error = process.communicate(timeout=500)
        assert process.returncode == 0, error
    one, two = (json.loads((tmp_path / out / "detections.json").read_text()) for out in ("one", "two"))
    assert [d["image_id"] for d in one] == [d["image_id"] for d in two] and {d["image_id"] for d in one} == {*range(11)}
    np.testing.assert_allclose([d["score"] for d in one], [d["score"] for d in two], rtol=1e-5)
    np.testing.assert_allclose([d["bbox"] for d in one], [d["bbox"] for d in two], atol=1e-2)
    one, two = (json.loads((tmp_path / out / "results.json").read_text()) for out in ("one", "two"))
    assert one.pop("undecodable_images") == two.pop("undecodable_images") == []
    assert one == pytest.approx(two, abs=1e-6)


def test_attend_shows_what_the_centre_of_a_box_looks_at(run, tmp_path):
    command = ["experiments.attend", f"--workdir={run}", f"--out={tmp_path}", "--image=3", "--box=10,20,54,52"]
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for kind in ("heat", "arrows"):
        path = tmp_path / f"image3_res4_0_nonlocal_0-2-2_{kind}.png"  # positions of 16 x 16 pixels
        assert f"wrote {path}" in done.stdout
        with PIL.Image.open(path) as picture:
            assert picture.size[0] > 600


@pytest.mark.parametrize("given", [["1", "2"], ["1", "2", "3", "x"], ["1", "-2", "3", "4"], ["1", "2", "3", "nan"]])
def test_a_box_that_is_none_is_named(given):
    with pytest.raises(InputError, match=f"--box={','.join(given)}: give 4 numbers, x0,y0,x1,y1$"):
        pictures.parse_numbers("box", given, "x0,y0,x1,y1", kind=float)
    assert pictures.parse_numbers("box", ["1", "2.5", "3", "4"], "x0,y0,x1,y1", kind=float) == (1, 2.5, 3, 4)
