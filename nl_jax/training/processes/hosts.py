"""Joins several processes into one run, and ends all of them when one is lost."""

import importlib.util
import json
import os
import sys
import threading
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from nl_jax.errors import InputError

# After this time the other processes notice a killed process and end. This is well within a minute.
LOST_SECONDS = 30
CLUSTERS = ("auto", "none", "slurm", "ompi", "mpi4py", "k8s", "gcetpu", "gketpu")
# Launchers of several processes set these variables to the number of processes or to their list.
LAUNCHERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
# JAX joins the processes of a launcher only with all of these variables. Without them it waits, or fails with its
# own message.
NEEDED = {
    "SLURM_STEP_NUM_TASKS": (
        "SLURM_JOB_ID",
        "SLURM_STEP_NODELIST",
        "SLURM_NTASKS",
        "SLURM_PROCID",
        "SLURM_LOCALID",
    ),
    "OMPI_COMM_WORLD_SIZE": ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
}
# Launchers that give no address where processes can meet: the variables of the number and the index of a process.
STRANGERS = {
    "torchrun": ("WORLD_SIZE", "RANK"),
    "MPICH": ("PMI_SIZE", "PMI_RANK"),
    "MVAPICH": ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
}
ALONE = "--cluster=none makes this a run of one process"
TELL_AFTER = 5.0  # seconds of waiting for the others


def join(
    cluster: str = "auto", coordinator: str = "", num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins this process with the other processes of its run. A program calls it before JAX lists its devices.

    Args:
      cluster: "auto" asks the environment, where Slurm, Open MPI, GKE and an indexed Kubernetes Job set variables.
        "none" is a run of one process. The other values of CLUSTERS are JAX's names. They are for an environment
        without these variables, such as the hosts of a TPU pod slice (gcetpu).
      coordinator: HOST:PORT of process 0. A user gives it together with the next two arguments to join processes by
        hand.
      num_processes: the number of processes.
      process_id: the index of this process.

    Raises:
      InputError: arguments do not fit together, or the other processes cannot be found.
    """
    by_hand = {"coordinator": coordinator or None, "num_processes": num_processes, "process_id": process_id}
    given = {name: value for name, value in by_hand.items() if value is not None}
    if given and len(given) < 3:
        missing = ", ".join(f"--{name}" for name in by_hand if name not in given)
        raise InputError(f"--{' and --'.join(given)} alone do not say who the processes are; give {missing} too")
    if given and not (":" in coordinator and 0 <= process_id < num_processes):
        raise InputError(
            f"--coordinator={coordinator} --num_processes={num_processes} --process_id={process_id}: choose "
            "HOST:PORT of process 0, 1 or more processes, and a process_id from 0 to num_processes - 1"
        )
    if cluster not in CLUSTERS:
        raise InputError(f"--cluster={cluster!r} is unknown; choose one of {', '.join(CLUSTERS)}")
    if not given and (cluster == "none" or (cluster == "auto" and not _launched_as_several())):
        return
    if given:
        who = f"process {process_id} of {num_processes} waits for the others at {coordinator}"
    else:
        who = "this process waits for the others of its run" + _by_launcher()
    timer = threading.Timer(TELL_AFTER, print, [f"{who}. {ALONE}"], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    method = "deactivate" if given else None if cluster == "auto" else cluster
    try:
        jax.distributed.initialize(
            given.get("coordinator"),
            given.get("num_processes"),
            given.get("process_id"),
            cluster_detection_method=method,
            heartbeat_timeout_seconds=LOST_SECONDS,
        )
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        how = f"--cluster={cluster}" if not given else f"--coordinator={coordinator}"
        raise InputError(f"{how}: the processes of this run cannot be joined: {error!r}. {ALONE}") from error
    finally:
        timer.cancel()


def end(code: int, *, at_once: bool = False) -> None:
    """Ends this process while the others may be waiting for it.

    Python's normal exit would wait for the others. The others notice the end when their connections break, or after
    LOST_SECONDS. They end soon after the first process ends. So the first process waits two seconds, in which the
    others can print the same message.

    Args:
      code: the exit code.
      at_once: whether the first process does not wait.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0 and not at_once:
        time.sleep(2)
    os._exit(code)


def several() -> bool:
    """Returns whether `join` made this process one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def gather(array: np.ndarray) -> np.ndarray:
    """Returns the arrays (n,..) of all processes as one array.

    Every process must call it with an array of the same shape.
    """
    return multihost_utils.process_allgather(array, tiled=True) if jax.process_count() > 1 else array


def gather_json(content: list) -> list:
    """Returns the lists of all processes as one list. Every process must call it with content for JSON."""
    if jax.process_count() == 1:
        return content
    text = np.frombuffer(json.dumps(content).encode(), np.uint8)
    lengths = gather(np.array([len(text)]))
    padded = np.zeros((1, lengths.max()), np.uint8)
    padded[0, : len(text)] = text
    texts = (row[:length].tobytes() for row, length in zip(gather(padded), lengths, strict=True))
    return [item for text in texts for item in json.loads(text)]


def _launched_as_several() -> bool:
    """Returns whether the environment describes several processes that can be joined.

    Raises:
      InputError: the environment describes several processes, but not enough to join them.
    """
    if "SLURM_PTY_PORT" in os.environ:  # in an interactive shell the other tasks run nothing
        return False
    counts = {name: _count(os.environ.get(name, "")) for name in LAUNCHERS}
    for name, needed in NEEDED.items():
        if counts[name] > 1 and (missing := [one for one in needed if one not in os.environ]):
            found = f"{name}={os.environ[name]} says that there are several processes"
            found = f"{found}, and {', '.join(missing)} is not set"
            raise InputError(f"{found}: they cannot be joined. {ALONE}; --coordinator, .. join them by hand")
    if max(counts.values()) > 1:
        return True
    if "JOB_COMPLETION_INDEX" in os.environ and counts["TPU_WORKER_HOSTNAMES"] != 1:
        if "KUBERNETES_SERVICE_HOST" in os.environ and importlib.util.find_spec("kubernetes"):
            return True
        raise InputError(
            "JOB_COMPLETION_INDEX tells of an indexed Kubernetes Job, whose processes are joined where "
            f"KUBERNETES_SERVICE_HOST is set and the package kubernetes is installed. {ALONE}, also a Job of one"
        )
    for launcher, (size, rank) in STRANGERS.items():
        count = os.environ.get(size, "")
        if count.isdigit() and int(count) > 1 and rank in os.environ:
            raise InputError(
                f"{launcher} started {count} processes ({size}={count}), which would train {count} runs: join them by "
                f"--coordinator=HOST:PORT --num_processes=${size} --process_id=${rank}. {ALONE}"
            )
    return False


def _count(value: str) -> int:
    """Returns the number of processes that a launcher's variable describes."""
    if not value or " " in value:  # with one host, libtpu sets a sentence in place of names
        return 0
    return int(value) if value.isdigit() else len(value.split(","))


def _by_launcher() -> str:
    """Returns the index of this process and the number of processes, as the launcher has set them."""
    for size, rank in (("SLURM_NTASKS", "SLURM_PROCID"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")):
        if size in os.environ and rank in os.environ:
            return f" (it is {os.environ[rank]} of {os.environ[size]}, by {size})"
    return ""
