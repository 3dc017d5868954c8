"""Several processes as one run: who they are, and what becomes of the others when one is lost."""

import json
import os
import sys
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from nl_jax.errors import InputError

# A process that was killed is noticed after this long, and the others end: well within a minute.
LOST_SECONDS = 30
CLUSTERS = ("auto", "none", "slurm", "ompi", "mpi4py", "k8s", "gcetpu", "gketpu")
# Set by launchers of several processes, with the number of processes or their list.
LAUNCHERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")


def join(
    cluster: str = "auto", coordinator: str = "", num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Makes this process one of several; to be called before anything else asks JAX for its devices.

    Args:
      cluster: "auto" asks the environment, in which Slurm, Open MPI, GKE and an indexed Kubernetes Job leave traces;
        "none" is a run of one process; the others of CLUSTERS are JAX's names, for where no trace is left, as on the
        hosts of a TPU pod slice (gcetpu).
      coordinator: HOST:PORT of process 0, with the number of processes and this one's, where all are given by hand.

    Raises:
      InputError: where these do not go together, or the others cannot be found.
    """
    by_hand = {"coordinator": coordinator or None, "num_processes": num_processes, "process_id": process_id}
    given = {name: value for name, value in by_hand.items() if value is not None}
    if given and len(given) < 3:
        missing = ", ".join(f"--{name}" for name in by_hand if name not in given)
        raise InputError(f"--{' and --'.join(given)} alone do not say who the processes are; give {missing} too")
    if given and not (":" in coordinator and 0 <= process_id < num_processes):
        raise InputError(
            f"--coordinator={coordinator} --num_processes={num_processes} --process_id={process_id}: choose "
            "HOST:PORT of process 0, 1 or more processes, and of these 0, 1, .."
        )
    if cluster not in CLUSTERS:
        raise InputError(f"--cluster={cluster!r} is unknown; choose one of {', '.join(CLUSTERS)}")
    if not given and (cluster == "none" or (cluster == "auto" and not _launched_as_several())):
        return
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
        raise InputError(f"{how}: the processes of this run cannot be joined: {error!r}") from error


def end(code: int, *, at_once: bool = False) -> None:
    """Ends this process, where the others may be in the middle of something that waits for it.

    Python's way out would wait for them. They hear of it from their broken connections, or after LOST_SECONDS. The
    first process, which the others look to, leaves them time to say the same thing for themselves, unless `at_once`.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0 and not at_once:
        time.sleep(2)
    os._exit(code)


def several() -> bool:
    """Whether `join` made this process one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def gather(array: np.ndarray) -> np.ndarray:
    """The arrays (n,..) of all processes one after another; every process has to ask, with one of the same shape."""
    return multihost_utils.process_allgather(array, tiled=True) if jax.process_count() > 1 else array


def gather_json(content: list) -> list:
    """The lists of all processes as one; every process has to ask."""
    if jax.process_count() == 1:
        return content
    text = np.frombuffer(json.dumps(content).encode(), np.uint8)
    lengths = gather(np.array([len(text)]))
    padded = np.zeros((1, lengths.max()), np.uint8)
    padded[0, : len(text)] = text
    texts = (row[:length].tobytes() for row, length in zip(gather(padded), lengths, strict=True))
    return [item for text in texts for item in json.loads(text)]


def _launched_as_several() -> bool:
    values = [os.environ.get(name, "") for name in LAUNCHERS]
    # Where libtpu finds no other hosts, it leaves a sentence in place of their names.
    counts = [int(value) if value.isdigit() else len(value.split(",")) for value in values if " " not in value]
    return max(counts, default=1) > 1 or "JOB_COMPLETION_INDEX" in os.environ
