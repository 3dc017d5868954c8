"""import_weights and export_weights as a user types them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nl_jax import Predictor

ROOT = Path(__file__).parents[2]
NETWORK = [
    *("--config=configs/quickstart.py", "--config.model.width=4", "--config.model.geometry=slowfast"),
    *("--config.model.blocks_per_stage=()", "--config.model.inflate=3x1x1", "--config.data.test_size=8"),
    *("--config.model.nonlocal_blocks.res3=(1,)", "--config.eval_batch_size=8"),
]


def run(name, *arguments):
    command = [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "COLUMNS": "200"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)


@pytest.fixture
def checkpoint(peers, write):
    return write("slowfast", peers["slowfast"].checkpoint(50, nonlocal_at={1: (1,)}))


def test_imported_weights_are_tested_and_exported(tmp_path, checkpoint, torch):
    workdir, names = tmp_path / "run", tmp_path / "classes.txt"
    names.write_text("zero\none\ntwo\nthree\nfour\n")
    arguments = ["--source=slowfast", f"--path={checkpoint}", *NETWORK, f"--workdir={workdir}", f"--classes={names}"]
    done = run("import_weights", *arguments)
    assert done.returncode == 0, done.stderr
    assert "arrays taken over" in done.stdout and "left at initialization: none" in done.stdout
    assert json.loads((workdir / "classes.json").read_text()) == ["zero", "one", "two", "three", "four"]

    again = run("import_weights", *arguments)
    assert again.returncode == 2 and "already holds a run" in again.stderr

    tested = run("evaluate", f"--workdir={workdir}")
    assert tested.returncode == 0, tested.stderr
    assert "8 videos x 1 views" in tested.stdout

    few = ["--config.start.stage=", "--config.steps=3", "--config.optimizer.warmup_steps=1", "--config.batch_size=8"]
    few += ["--config.recipe_batch_size=8"]
    few += ["--config.precise_bn_batches=1", "--config.data.validation_size=8", f"--config.start.workdir={workdir}"]
    started = run("train", *NETWORK, *few, f"--workdir={tmp_path / 'on'}", "--config.optimizer.learning_rate=0.0")
    assert started.returncode == 0, started.stderr
    assert "left at initialization: classifier/fc" in started.stdout  # the classes of the file are other ones
    into = run("train", *NETWORK, *few, f"--workdir={workdir}")
    assert into.returncode == 2 and "holds imported weights; to start from them" in into.stderr

    exported = run("export_weights", f"--workdir={workdir}", f"--path={tmp_path / 'out.pyth'}")
    assert exported.returncode == 0, exported.stderr
    assert "NONLOCAL.LOCATION [[[]], [[1]], [[]], [[]]]" in exported.stdout
    before, after = (torch.load(path, weights_only=True)["model_state"] for path in (checkpoint, tmp_path / "out.pyth"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before if "tracked" not in name)


def test_a_video_is_told_by_the_file_itself_as_by_the_workdir_made_of_it(tmp_path, checkpoint, video_folder):
    (tmp_path / "classes.txt").write_text("zero\none\ntwo\nthree\nfour\n")
    network = ["--source=slowfast", "--config=configs/folder.py:i3d", *NETWORK[1:4], "--config.data.num_clips=2"]
    network += ["--config.model.nonlocal_blocks.res3=(1,)", f"--classes={tmp_path / 'classes.txt'}"]
    video = video_folder / "flower" / "clip.mp4"
    done = run("predict", f"--checkpoint={checkpoint}", *network, "--json", video)
    assert done.returncode == 0 and "left at initialization: none" in done.stderr, done.stderr
    told = {entry["class"]: entry["score"] for entry in json.loads(done.stdout)["top"]}
    done = run("import_weights", f"--path={checkpoint}", *network, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    found = Predictor.of_workdir(tmp_path / "run").file(str(video), every=0.0)
    assert told == pytest.approx(dict(zip(found.classes, found.scores.tolist(), strict=True)), abs=1e-4)


def test_inputs_are_those_the_weights_were_trained_on(tmp_path, peers, write):
    checkpoint = write("torchvision", peers["torchvision"].checkpoint(50, two_d=True))
    network = [flag for flag in NETWORK[1:] if "nonlocal_blocks" not in flag]
    done = run(
        "import_weights",
        "--source=torchvision",
        f"--path={checkpoint}",
        "--config=configs/quickstart.py:c2d",
        *network,
        "--num_classes=5",
        f"--workdir={tmp_path / 'run'}",
    )
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["input"] == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize(
    "changes, message",
    [
        (["--config.model.geometry=paper"], "set --config.model.geometry=slowfast"),
        (["--path=/no/such.pyth"], "there is no file /no/such.pyth"),
        (["--source=caffe2"], "is cut off or is no pickle"),
        (["--source=keras"], "torchvision|detectron2|mmdetection|caffe2|slowfast|mmaction2"),
    ],
)
def test_what_cannot_be_imported_is_one_line_and_exit_code_2(changes, message, tmp_path, checkpoint):
    arguments = ["--source=slowfast", f"--path={checkpoint}", *NETWORK, "--num_classes=5", *changes]
    if "caffe2" in changes[0]:
        checkpoint.write_bytes(b"\x80\x02}q\x01")
    done = run("import_weights", *arguments, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "message, flags",
    [
        (
            "x.pth: 1 names are unknown to source='slowfast': a; source='caffe2' knows some",
            "to --source=slowfast: a; --source=caffe2 knows",
        ),
        (
            "set geometry='slowfast' (check_geometry=False loads them",
            "set --config.model.geometry=slowfast (--nocheck_geometry loads them",
        ),
        ("the model is C2D; set inflate='3x1x1'", "set --config.model.inflate=3x1x1"),
        (
            "set inflate=None, or ask for the kernels of the file to be inflated in time",
            "set --config.model.inflate=, or --inflate_2d for",
        ),
        (
            "set nonlocal_blocks={'res3': (0, 1), 'res4': (1,)}",
            "set --config.model.nonlocal_blocks.res3=(0,1) --config.model.nonlocal_blocks.res4=(1,)",
        ),
        ("set blocks_per_stage=(1, 2, 2)", "set --config.model.blocks_per_stage=(1,2,2)"),
        ("set depth=50", "set --config.model.depth=50"),
        ("set nonlocal_options.pairwise", "set --config.model.nonlocal_options.pairwise"),
    ],
)
def test_messages_of_programs_name_flags(message, flags):
    from experiments.foreign import as_flags  # defines flags

    assert flags in as_flags(message)
