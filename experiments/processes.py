"""Flags of the programs that can run as several processes, one for each host or each device: see `hosts.join`."""

from absl import flags

from nl_jax.training.processes import hosts

CLUSTER = flags.DEFINE_string(
    "cluster", "auto", f"the launcher of several processes, one of {', '.join(hosts.CLUSTERS)}"
)
COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, if you start the processes by hand")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "number of processes; needs --coordinator")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "number of this process, counted from 0; needs --coordinator")


def join() -> None:
    """Joins this process to the processes that the flags or the environment describe."""
    hosts.join(CLUSTER.value, COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
