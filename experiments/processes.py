"""Flags of programs that run as several processes, one for each host or each device: see `hosts.join`."""

from absl import flags

from nl_jax.training.processes import hosts

CLUSTER = flags.DEFINE_string(
    "cluster", "auto", f"the system that started several processes, if there is one: {', '.join(hosts.CLUSTERS)}"
)
COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, if the processes are started by hand")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "number of processes, with --coordinator")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "number of this process, from 0, with --coordinator")


def join() -> None:
    """Joins this process to the processes that the flags or the environment describe."""
    hosts.join(CLUSTER.value, COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
