"""Every program takes the flags of the launchers, and runs for users without a home."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import photographs
from experiments.named_videos import named_videos
from experiments.reproduce import __main__ as reproduce
from nl_jax.data.open import open_videos
from nl_jax.errors import InputError
from nl_jax.places import make_directory, place

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "train": ("--config=configs/quickstart.py", "--workdir=hf://bucket/run"),
    "train on": ("--config=configs/folder.py", "--workdir=run", "--config.data.train=gs://bucket/videos"),
    "prepare_data": ("--dataset=video_folder", "--source=gs://bucket/videos", "--check", "--report=report"),
    "report": ("run", "--out=https://example.org/report.html"),
}


def run(directory, program, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{program}", *arguments],
        cwd=directory,
        env={"PYTHONPATH": str(ROOT)} | os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    return tmp_path


# Each command is a process that imports JAX, so only programs with differently defined flags are tested.
@pytest.mark.parametrize("command", COMMANDS)
def test_an_address_that_cannot_be_there_is_refused_before_anything_is_written(command, directory):
    found = run(directory, command.split()[0], *COMMANDS[command])
    assert found.returncode == 2, found.stderr
    assert found.stderr.startswith("error: ") and re.search(r"=(hf|gs|https)://.* is an address", found.stderr)
    assert found.stderr.count("\n") == 1
    assert [path.name for path in directory.iterdir()] == ["configs"]


def test_the_same_in_python(monkeypatch):
    with pytest.raises(InputError, match="directory=ftp:/bucket/run is an address"):
        make_directory(Path("ftp://bucket/run"))
    with pytest.raises(
        InputError, match=r"data=s3://bucket/run is an address.* a bucket can hold a dataset that prepare_data"
    ):
        open_videos("s3://bucket/run")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'not installed: gcsfs; install with pip install "nl_jax\[gs\]"'):
        place("--workdir", "gs://bucket/run")


@pytest.mark.parametrize("below", ["", "/run"])
def test_a_bucket_that_nobody_may_read_is_one_line(below, tmp_path, monkeypatch):
    pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(InputError, match=rf"workdir=s3://bucket{below} cannot be reached or written: NoCred"):
        place("workdir", f"s3://bucket{below}")


def test_addresses_of_videos_and_of_folders_of_results_are_told_for_what_they_are(capsys):
    ((_, name, why),) = named_videos(["s3://bucket/a.mp4"])
    assert name == "s3://bucket/a.mp4" and why.startswith("VIDEO=s3://bucket/a.mp4 is an address")
    programs = [(reproduce.main, ["2a", "--workdirs=s3://bucket/runs"])]
    programs += [(photographs.main, ["crowns", "x", "--out=s3://b"])]
    for main, given in programs:
        with pytest.raises(SystemExit) as ended:
            main(given)
        error = capsys.readouterr().err
        assert (
            ended.value.code == 2 and error.count("\n") == 1 and error.startswith(f"error: {given[-1]} is an address")
        )


def test_a_user_without_a_home_can_run_a_program(directory):
    environment = {
        name: value for name, value in os.environ.items() if name not in ("HOME", "JAX_COMPILATION_CACHE_DIR")
    }
    # A user that the system does not know, as in a container with --user 12345.
    code = (
        "import os, pwd, runpy, sys; os.environ.pop('HOME', None)\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "sys.argv = ['evaluate', '--workdir=none']\n"
        "runpy.run_module('experiments.evaluate', run_name='__main__')\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 2 and "error: none holds no config.json" in found.stderr, found.stderr
    assert "Traceback" not in found.stderr


def test_a_file_whose_name_begins_with_a_dash(directory):
    found = run(directory, "predict", "--workdir=run", "-abc.mp4")
    assert found.returncode == 2 and "must follow the argument --: -- -abc.mp4" in found.stderr


def test_help_is_no_failure(directory):
    found = run(directory, "evaluate", "--help")
    assert found.returncode == 0 and "--workdir" in found.stdout


def test_programs_that_write_to_this_machine_alone_refuse_a_bucket(capsys):
    with pytest.raises(SystemExit) as ended:
        reproduce.parser().parse_args(["2a", "--out=gs://bucket/tables"])
    assert ended.value.code == 2
    assert "error: --out=gs://bucket/tables is an address" in capsys.readouterr().err
