"""The programs as a user types them, in their own processes: killed, resumed, and with bad input."""

import errno
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from configs import quickstart
from experiments import command_line
from nl_jax.errors import InputError
from nl_jax.runs.config_files import load_config
from nl_jax.training.logs import timing

ROOT = Path(__file__).parents[2]
# Signals that end a run: kill -9 twice as often as SIGTERM. `KILLS=20 pytest -n0 tests/experiments -k killed` is the
# long form of the test.
KILLS = int(os.environ.get("KILLS", "2"))
SIGNALS = [signal.SIGTERM if at % 3 == 1 else signal.SIGKILL for at in range(KILLS * 3 // 2)]
LONG = pytest.mark.timeout(max(900, 400 * KILLS))  # seconds
SMALL = [
    "--config.recipe_batch_size=16",
    *("--config.start.stage=", "--config.steps=12", "--config.batch_size=16", "--config.eval_batch_size=8"),
    *("--config.precise_bn_batches=2", "--config.eval_every=6", "--config.log_every=1", "--config.checkpoint_every=2"),
    *("--config.data.validation_size=8", "--config.data.test_size=16", "--config.optimizer.warmup_steps=2"),
    *("--config.model.width=4", "--config.model.blocks_per_stage=(1,1)", "--config.model.nonlocal_blocks.res3=(0,)"),
]
SCENES = [
    *("--config.steps=12", "--config.batch_size=8", "--config.recipe_batch_size=8", "--config.eval_batch_size=8"),
    *("--config.precise_bn_batches=2", "--config.eval_every=6", "--config.log_every=1", "--config.checkpoint_every=2"),
    *("--config.data.validation_size=8", "--config.data.test_size=16", "--config.optimizer.warmup_steps=2"),
    *("--config.model.width=4", "--config.detector.fpn_channels=8", "--config.detector.box_channels=16"),
    *("--config.detector.mask_channels=8", "--config.detector.pre_nms=24", "--config.detector.train_pre_nms=24"),
    *("--config.detector.proposals=16", "--config.detector.train_proposals=16", "--config.detector.rpn_samples=16"),
    *("--config.detector.roi_samples=8", "--config.detector.detections=6"),
]
FOLDER = [
    *("--config=configs/folder.py", "--config.steps=4", "--config.batch_size=8", "--config.checkpoint_every=100"),
    *("--config.eval_every=0", "--config.precise_bn_batches=1", "--config.optimizer.warmup_steps=1"),
    *("--config.model.width=4", "--config.data.frames=4", "--config.data.num_clips=2"),
]


def program(name: str, *arguments) -> list[str]:
    return [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)]


def environment(devices: int = 1) -> dict[str, str]:
    return os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "COLUMNS": "200"}


def run(name: str, *arguments, devices: int = 1) -> subprocess.CompletedProcess:
    return subprocess.run(
        program(name, *arguments),
        cwd=ROOT,
        env=environment(devices),
        capture_output=True,
        text=True,
        timeout=400 * KILLS,
    )


def rows(workdir: Path) -> list[str]:
    """Returns the lines of metrics.csv without the timing columns."""
    lines = (workdir / "metrics.csv").read_text().splitlines()
    kept = [at for at, name in enumerate(lines[0].split(",")) if name not in {*timing("clip"), *timing("image")}]
    return [",".join(line.split(",")[at] for at in kept) for line in lines]


def final_state(workdir: Path) -> dict[str, np.ndarray]:
    """Returns every array of the newest checkpoint: parameters, statistics and optimizer state."""
    with ocp.CheckpointManager(workdir / "checkpoints", item_names=("model", "optimizer")) as manager:
        step = manager.latest_step()
        items = {name: ocp.args.StandardRestore() for name in ("model", "optimizer")}
        restored = manager.restore(step, args=ocp.args.Composite(**items))
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(dict(restored))}


def kill_and_resume(tmp_path: Path, flags: list[str]) -> None:
    """Trains once as a whole and once killed by every one of SIGNALS; both must end with the same bits."""
    if len(SIGNALS) > 3:
        flags = [*flags, f"--config.steps={4 * len(SIGNALS)}", "--config.checkpoint_every=1", "--config.eval_every=30"]
    whole = run("train", *flags, f"--workdir={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr

    moments = random.Random(0)
    killed = program("train", *flags, f"--workdir={tmp_path / 'killed'}")
    csv = tmp_path / "killed" / "metrics.csv"
    for number in SIGNALS:
        least = (len(csv.read_text().splitlines()) if csv.exists() else 1) + moments.randint(1, 2)
        with subprocess.Popen(killed, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL) as process:
            try:
                # Kills at a random moment after some more rows, possibly during a save.
                while process.poll() is None and not (csv.exists() and len(csv.read_text().splitlines()) > least):
                    time.sleep(0.01)
                time.sleep(moments.uniform(0, 0.1))
                assert process.poll() is None, "the run ended before it was killed"
                process.send_signal(number)
                assert process.wait() == {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 75}[number]
            finally:
                process.kill()
    last = run("train", *flags, f"--workdir={tmp_path / 'killed'}")
    assert last.returncode == 0, last.stderr
    assert "resumed at step" in last.stdout
    for file in ("results.json", "config.json"):
        assert (tmp_path / "killed" / file).read_text() == (tmp_path / "whole" / file).read_text()
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, final_state(tmp_path / "killed"), final_state(tmp_path / "whole"))


@LONG
@pytest.mark.skipif("KILLS" not in os.environ, reason="takes minutes; tests/tasks/test_detection.py has a short form")
def test_a_detector_killed_at_random_moments_and_resumed_equals_uninterrupted(tmp_path):
    kill_and_resume(tmp_path, ["--config=configs/scenes.py", *SCENES])
    found, expected = ((tmp_path / name / "detections.json").read_bytes() for name in ("killed", "whole"))
    assert found == expected


@LONG
def test_killed_at_random_moments_and_resumed_equals_uninterrupted(tmp_path):
    quickstart = ["--config=configs/quickstart.py", *SMALL]
    kill_and_resume(tmp_path, quickstart)
    if len(SIGNALS) > 3:
        return  # the rest does not depend on the number of kills

    drawn = run("attend", f"--workdir={tmp_path / 'whole'}", "--video=3", "--position=1,1,1")
    assert drawn.returncode == 0, drawn.stderr
    pictures = {path.name for path in (tmp_path / "whole" / "attention").iterdir()}
    assert pictures == {f"video3_res3_0_nonlocal_1-1-1_{kind}.png" for kind in ("heat", "arrows")}
    page = run("attend", f"--workdir={tmp_path / 'whole'}", "--video=3", "--format=html", "--untrained")
    assert page.returncode == 0, page.stderr
    assert "whole, before training" in (tmp_path / "whole" / "attention" / "video3.html").read_text()
    nowhere = run("attend", f"--workdir={tmp_path / 'whole'}", "--position=1,7,1")
    assert nowhere.returncode == 2 and "position=(1, 7, 1) lies outside the (16, 3, 3)" in nowhere.stderr

    # The same checkpoint on other devices gives the same figure, and its losses agree to 1e-5.
    evaluated = run("evaluate", f"--workdir={tmp_path / 'whole'}", "--checkpoint=newest", devices=4)
    assert evaluated.returncode == 0, evaluated.stderr
    found = json.loads((tmp_path / "whole" / "evaluate" / "results.json").read_text())
    expected = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert {k: found[k] for k in ("video_top1", "list", "videos")} == {
        k: expected[k] for k in ("video_top1", "list", "videos")
    }
    eight = run("train", *quickstart, f"--workdir={tmp_path / 'eight'}", devices=8)
    assert "on 8 device(s)" in eight.stdout, eight.stderr
    losses = [[float(line.split(",")[2]) for line in rows(tmp_path / name)[1:]] for name in ("whole", "eight")]
    np.testing.assert_allclose(losses[1][:5], losses[0][:5], rtol=1e-5)

    # A checkpoint with half a file is named in the error, and no other checkpoint is tried.
    (manifest,) = (tmp_path / "whole" / "checkpoints" / "12" / "model").glob("manifest.ocdbt")
    manifest.write_bytes(manifest.read_bytes()[: manifest.stat().st_size // 2])
    damaged = run("evaluate", f"--workdir={tmp_path / 'whole'}")
    assert damaged.returncode == 2, damaged.stderr
    assert re.search(r"error: the checkpoint \S+/checkpoints/12 cannot be read", damaged.stderr)


def test_one_command_runs_the_whole_chain(tmp_path):
    """The README's command, with fewer steps: images first, then video."""
    command = re.search(r"python -m (experiments\.train --config=configs/quickstart\.py\S*)", readme_blocks()).group(1)
    name, config = command.removeprefix("experiments.").split()
    small = [flag for flag in SMALL if "start.stage" not in flag]
    stage = tmp_path / "quickstart_few.py"
    text = (ROOT / "configs/quickstart.py").read_text()
    text = text.replace("configs/quickstart.py:images", f"{stage}:images")
    for old, new in (('"steps": 600', '"steps": 3'), ('"optimizer.warmup_steps": 30', '"optimizer.warmup_steps": 1')):
        assert old in text
        text = text.replace(old, new)
    text = text.replace("return common.update(config, changes)", "return common.update(config, changes | FEW)")
    text += '\nFEW = {"model.width": 4, "model.blocks_per_stage": (1, 1), "data.test_size": 16}\n'
    text += 'FEW |= {"data.validation_size": 8, "precise_bn_batches": 1}\n'
    stage.write_text(text)
    config = config.replace("configs/quickstart.py", str(stage))
    done = run(name, config, *small, "--config.accumulate_steps=2", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "arrays taken over" in done.stdout
    assert (tmp_path / "run" / "start" / "results.json").exists()
    stage = json.loads((tmp_path / "run" / "start" / "config.json").read_text())
    assert stage["batch_size"] == 128  # from the stage's recipe; other fields are those of the whole chain
    assert [stage[name] for name in ("accumulate_steps", "eval_batch_size", "checkpoint_every")] == [2, 8, 2]
    assert (tmp_path / "run" / "results.json").exists()


def readme_blocks() -> str:
    return "\n".join(re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S))


def test_commands_of_the_readme_name_programs_and_configs_that_exist():
    commands = re.findall(r"python -m (\S+)(.*)", readme_blocks())
    assert commands
    for module, arguments in commands:
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module
        for config in re.findall(r"--config=([^\s:]+)", arguments):
            assert (ROOT / config).is_file(), config


def test_figures_of_the_quickstart_in_the_readme_are_those_that_the_run_prints_to_compare():
    """Both come from configs/quickstart.py."""
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"configs/quickstart\.py(?::(\w+))? --config\.seed=S --workdir=DIR` \| (.*?) \|", text)
    assert [row for row, _ in rows] == ["", "c2d"]
    for row, figures in rows:
        expected = quickstart.get_config(row).expect
        assert expected.startswith(" and ".join(figures.rsplit(", ", 1)) + " (seeds 0 to 2)"), (row, expected)


def test_a_folder_with_broken_files(tmp_path, video_folder_with_broken_files):
    """A run names and counts videos that cannot be decoded, and counts them as wrong in testing."""
    folder, broken = video_folder_with_broken_files
    trained = run("train", *FOLDER, f"--config.data.train={folder}", f"--workdir={tmp_path / 'run'}")
    assert trained.returncode == 0, trained.stderr
    noted = (tmp_path / "run" / "bad_videos.csv").read_text()
    for name in broken:
        assert name in trained.stdout and name in noted
    assert f"{len(broken)} training videos could not be decoded" in trained.stdout
    assert "of the training videos (data.test is not given)" in trained.stdout

    tested = run("evaluate", f"--workdir={tmp_path / 'run'}", f"--data={folder}", "--num_clips=10", "--num_crops=3")
    assert tested.returncode == 0, tested.stderr
    assert re.search(r"video top-1 .*clip top-1 .*6 videos x 30 views", tested.stdout)
    assert all(f"cannot be decoded: {name}" in tested.stdout for name in broken)
    results = json.loads((tmp_path / "run" / "evaluate" / "results.json").read_text())
    assert results["undecodable"] == len(broken) and results["video_top1"] <= 4 / 6

    whole = ("--test_crop=0", "--num_crops=1", "--num_clips=2", "--starts=caffe2", "--test_short_side=32")
    tested = run("evaluate", f"--workdir={tmp_path / 'run'}", *whole)
    assert tested.returncode == 0, tested.stderr
    assert "6 videos x 2 views" in tested.stdout


def test_names_that_are_no_text(tmp_path, video_folder):
    """A folder from an old disk: a class and a broken file whose names are Latin-1."""
    folder = os.fsencode(tmp_path / "videos")
    shutil.copytree(os.fsencode(video_folder), folder)
    os.rename(folder + b"/flower", folder + b"/fl\xe8che")
    Path(os.fsdecode(folder + b"/fl\xe8che/cass\xe9.mp4")).write_text("no video")
    arguments = [*FOLDER, f"--config.data.train={tmp_path / 'videos'}", f"--workdir={tmp_path / 'run'}"]
    for _ in range(2):  # the second run reads the files of the first
        done = run("train", *arguments)
        assert done.returncode == 0, done.stderr
    assert r"cannot be decoded, counted as wrong: fl\udce8che/cass\udce9.mp4" in done.stdout
    tested = run("evaluate", f"--workdir={tmp_path / 'run'}")
    assert tested.returncode == 0 and "1 of these videos could not be decoded" in tested.stdout, tested.stderr


TRAIN = ["train", "--config=configs/quickstart.py", "--workdir=W"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([*TRAIN, "--config.optimizer.learning_rat=1"], "learning_rat.*; valid: .*learning_rate, "),
        ([*TRAIN, "--config.nothing_like_it=1"], "nothing_like_it.*valid: .*optimizer"),
        (["train", "--config=configs/quickstart.py:nl", "--workdir=W"], "rows: nl_c2d, c2d, images"),
        ([*TRAIN, "--worker=1"], "valid flags: .*--workdir"),
        (["train", "--config=configs/none.py", "--workdir=W"], "configs/none.py"),
        (["train", "--config=configs/quickstart.py"], "--workdir is not given; it is required"),
        ([*TRAIN, "--config.steps=many"], "--config.steps=many: valid is an integer"),
        (["train", "--config=configs/folder.py", "--workdir=W"], "data.train is empty"),
        (
            ["train", "--config=configs/folder.py", "--workdir=W", "--config.data.train=/no/such"],
            "/no/such: there is no",
        ),
        ([*TRAIN, "--config.mesh.data=3"], "number of devices, 1"),
        ([*TRAIN, "--config.start.stage=x.py"], "no config file x.py"),
        ([*TRAIN, "--config.steps=20"], "warmup_steps=120 must be fewer than steps=20"),  # before its stage is trained
        (["train", "--config=configs/quickstart.py", "--workdir="], "--workdir is empty"),
        ([*TRAIN, "--config.model.nonlocal_blocks.res3=('a',)"], r"nonlocal_blocks\.res3=\('a',\): 'a' is no integer"),
        (["evaluate", "--workdir=/no/such"], "/no/such holds no config.json"),
        ([*TRAIN, "--config.model.depth", "34"], r"depth=34 has no effect because blocks_per_stage=\(1, 2\) sets the"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    done = run(*[argument.replace("=W", f"={tmp_path / 'run'}") for argument in arguments])
    assert done.returncode == 2, done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("error: ")
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("def get_config(argument):\n    return {}['lr']\n", "line 2: KeyError: 'lr'"),
        ("def get_config(argument)\n", "SyntaxError: expected ':'"),
        ("import no_such_module\n", "line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("", "has no attribute 'get_config'"),
    ],
)
def test_a_config_file_with_a_mistake_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    done = run("train", f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_field_that_no_program_reads_is_refused_in_a_config_and_in_its_stage(tmp_path):
    for name, module in (("own", "quickstart"), ("stage", "kinetics")):
        text = f"from configs import {module}\n\ndef get_config(_):\n    config = {module}.get_config().unlock()\n"
        (tmp_path / f"{name}.py").write_text(f"{text}    config.optimizer.weight_decai = 0.1\n    return config\n")
    own, stage = str(tmp_path / "own.py"), str(tmp_path / "stage.py")
    message = r"no program reads the field optimizer\.weight_decai; did you mean optimizer\.weight_decay\?"
    for arguments, name in (
        ([f"--config={own}"], own),
        (["--config", "configs/quickstart.py", f"--config.start.stage={stage}"], stage),
    ):
        with pytest.raises(InputError, match=f"{name}: {message}"):
            command_line._check_fields(["train", *arguments])


def test_a_config_that_starts_from_itself_is_refused(tmp_path):
    own = tmp_path / "own.py"
    text = "from configs import quickstart\n\ndef get_config(_=''):\n    config = quickstart.get_config().unlock()\n"
    own.write_text(f"{text}    config.start.stage = {str(own)!r}\n    return config\n")
    with pytest.raises(InputError, match=f"start.stage={own} starts from itself; give a stage"):
        command_line._check_fields(["train", f"--config={own}"])


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_programs_know_every_field_of_the_configs(path):
    for row in getattr(importlib.import_module(f"configs.{path.stem}"), "ROWS", ()):
        command_line.check_known(f"{path}:{row}", load_config(f"{path}:{row}"))


def test_worker_processes_end_with_a_run_that_is_killed(tmp_path):
    flags = ["--config=configs/quickstart.py", *SMALL, "--config.num_workers=2", "--config.steps=100000"]
    process = subprocess.Popen(
        program("train", *flags, f"--workdir={tmp_path}"), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL
    )
    csv = tmp_path / "metrics.csv"
    try:
        wait_for(lambda: csv.exists() and len(csv.read_text().splitlines()) > 2)
        workers = children(process.pid)
        assert len(workers) >= 2
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not any(map(is_running, workers)))


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_for(condition, seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_the_python_of_the_readme_and_of_the_page_on_the_block_runs():
    text = (ROOT / "README.md").read_text() + (ROOT / "docs" / "block.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) == 2 and blocks[0] in (ROOT / "docs" / "index.md").read_text()
    for block in blocks:
        done = subprocess.run([sys.executable, "-W", "error", "-c", block], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(errno.ENOSPC, "No space left on device", "out.csv"), "No space left on device: out.csv; free some"),
        (OSError(errno.EROFS, "Read-only file system", "out.csv"), "Read-only file system: out.csv\n"),
        (
            RuntimeError("write() failed: No space left on device; writing x"),
            "No space left on device; writing x",
        ),
    ],
)
def test_a_disk_that_takes_no_more_is_one_line(error, said, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit, match="1"):
        command_line._guarded(main)
    told = capsys.readouterr().err
    assert said in told and told.startswith("error: ") and told.count("\n") == 1


def test_an_interrupt_before_the_first_step_is_one_line(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="130"):
        command_line._guarded(main)
    assert capsys.readouterr().err == "error: interrupted\n"


def test_an_interrupt_that_python_drops_comes_again():
    with pytest.raises(KeyboardInterrupt):
        command_line._repeated(SimpleNamespace(exc_type=KeyboardInterrupt))
        time.sleep(5)
