import csv
import time

import jax
import numpy as np
import pytest

from nl_jax.data.dataset import Dataset
from nl_jax.errors import InputError
from nl_jax.training.faults import BadExamples
from nl_jax.training.processes import hosts

SLURM = dict.fromkeys(hosts.NEEDED["SLURM_STEP_NUM_TASKS"], "1")


@pytest.fixture
def asked(monkeypatch):
    """Record the arguments of `jax.distributed.initialize` in place of joining anything."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: calls.append((args, options)))
    by_launchers = [name for pair in (*hosts.NEEDED.values(), *hosts.STRANGERS.values()) for name in pair]
    for name in (*hosts.LAUNCHERS, *by_launchers, "JOB_COMPLETION_INDEX", "SLURM_PTY_PORT"):
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.parametrize(
    "environment, several",
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1", "TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "WARNING: could not determine TPU worker hostnames, please set .."}, False),
        ({"SLURM_STEP_NUM_TASKS": "16"} | SLURM, True),
        ({"SLURM_STEP_NUM_TASKS": "16", "SLURM_PTY_PORT": "1234"} | SLURM, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"} | dict.fromkeys(hosts.NEEDED["OMPI_COMM_WORLD_SIZE"], "1"), True),
        ({"WORLD_SIZE": "1", "RANK": "0"}, False),
        ({"JOB_COMPLETION_INDEX": "0", "TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "host-0.pod,host-1.pod"}, True),
    ],
)
def test_what_launchers_leave_in_the_environment(asked, monkeypatch, environment, several):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    hosts.join("none")
    assert not asked
    hosts.join()
    assert bool(asked) == several
    if several:
        arguments, options = asked[0]
        assert arguments == (None, None, None) and options["cluster_detection_method"] is None
        assert options["heartbeat_timeout_seconds"] < 60


@pytest.mark.parametrize(
    "environment, message",
    [
        (
            {"SLURM_STEP_NUM_TASKS": "2"},
            "SLURM_STEP_NUM_TASKS=2 says that there are several processes, and SLURM_JOB_ID, SLURM_STEP",
        ),
        (
            {"OMPI_COMM_WORLD_SIZE": "2"},
            "OMPI_COMM_WORLD_SIZE=2 says that there are several processes, and OMPI_MCA_orte_hnp_uri, ",
        ),
        (
            {"JOB_COMPLETION_INDEX": "0"},
            "JOB_COMPLETION_INDEX tells of an indexed Kubernetes Job, .* package kubernetes",
        ),
        ({"WORLD_SIZE": "4", "RANK": "3"}, r"torchrun started 4 processes .* --num_processes=\$WORLD_SIZE"),
        ({"PMI_SIZE": "2", "PMI_RANK": "0"}, r"MPICH started 2 processes .*, which would train 2 runs"),
        ({"MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "0"}, r"MVAPICH started 2 processes"),
    ],
)
def test_processes_that_cannot_be_joined_are_told_what_to_do(asked, monkeypatch, environment, message):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"{message}.*--cluster=none makes this a run of one process"):
        hosts.join()
    hosts.join("none")
    hosts.join(coordinator="host:1234", num_processes=4, process_id=3)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "given, environment, who",
    [
        (
            {"coordinator": "host:1", "num_processes": 2, "process_id": 0},
            {},
            "process 0 of 2 waits for the others at host:1",
        ),
        ({}, {"SLURM_STEP_NUM_TASKS": "16"} | SLURM, "waits for the others of its run (it is 1 of 1, by SLURM_NTASKS)"),
    ],
)
def test_who_is_waited_for_is_said(asked, monkeypatch, capsys, given, environment, who):
    monkeypatch.setattr(hosts, "TELL_AFTER", 0.01)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: time.sleep(0.5))
    hosts.join(**given)
    assert f"{who}. --cluster=none" in capsys.readouterr().err


def test_processes_given_by_hand_and_kinds_of_cluster_by_name(asked):
    hosts.join(coordinator="host:1234", num_processes=4, process_id=3)
    hosts.join("gcetpu")
    assert [(arguments, options["cluster_detection_method"]) for arguments, options in asked] == [
        (("host:1234", 4, 3), "deactivate"),
        ((None, None, None), "gcetpu"),
    ]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"coordinator": "localhost:1"}, "--coordinator alone do not say .*; give --num_processes, --process_id too"),
        ({"process_id": 0, "num_processes": 2}, "--num_processes and --process_id alone do not .* --coordinator too"),
        ({"coordinator": "here", "num_processes": 2, "process_id": 0}, "choose HOST:PORT of process 0"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "a process_id from 0 to num_processes - 1"),
    ],
)
def test_flags_that_do_not_say_who_the_processes_are(asked, given, message):
    with pytest.raises(InputError, match=message):
        hosts.join(**given)
    assert not asked


def test_a_cluster_that_is_not_there(monkeypatch):
    def initialize(*_, **__):
        raise KeyError("SLURM_JOB_ID")  # as JAX does

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(
        InputError, match=r"--cluster=slurm: the processes .* cannot be joined: KeyError\('SLURM_JOB_ID"
    ):
        hosts.join("slurm")
    with pytest.raises(InputError, match=r"--cluster='lsf' is unknown; choose one of auto, none, slurm"):
        hosts.join("lsf")


class Videos(Dataset):
    names = tuple(f"{i}.mp4" for i in range(100))

    def __len__(self):
        return 100

    def failure_reason(self, index):
        return "broken"


def test_bad_videos_of_all_processes_are_listed_once_by_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    others = {1: [1], 3: [[[7], [-1]]]}  # the row of the other process, and its two clips
    monkeypatch.setattr(hosts, "gather", lambda own: np.concatenate([own, others[own.ndim]]))
    for process in (1, 0):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        bad = BadExamples(tmp_path, Videos(), "video", rows=(0,))
        assert bad.add(np.array([[5]])) == bad.add(np.array([[7]])) == []  # not before all processes have met
        assert bad.exchange() == ["5.mp4: broken", "7.mp4: broken"] and bad.indices == {5, 7}
        assert bad.exchange() == []
        assert (tmp_path / "bad_videos.csv").exists() == (process == 0)
    with (tmp_path / "bad_videos.csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["5.mp4", "7.mp4"]


def test_clips_whose_frames_several_processes_hold_are_counted_once(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "gather", lambda own: np.concatenate([own, own]))
    bad = BadExamples(tmp_path, Videos(), "video", 0.2, rows=(0, 1))
    for index in range(15):
        bad.add(np.array([[index], [-1]] if index < 7 else [[-1], [-1]]))
    with pytest.raises(InputError, match="7 of the first 30 training videos"):
        bad.exchange()


def test_clips_that_cannot_be_broken_are_none(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "gather", lambda own: np.concatenate([own, own]))
    bad = BadExamples(tmp_path, Videos(), "video", rows=(0, 1))
    bad.add(np.zeros((2, 0), int))  # of a dataset that is drawn
    assert bad.exchange() == []
