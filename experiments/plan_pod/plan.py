"""Plans the memory and time of a training step on every chip of a pod.

It compiles the step for TPUs on this machine. For GPUs it only lowers the step, because compiling needs a GPU.
"""

import dataclasses
import math
import os
import re
from functools import partial

import jax
from jax.experimental import topologies
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.plan_pod.collectives import Collective, collectives
from nl_jax.errors import InputError
from nl_jax.ops import devices
from nl_jax.tasks import task_of
from nl_jax.training import sharding
from nl_jax.training.abstract import abstract_batch, abstract_state, trace_run
from nl_jax.training.chips import CHIPS, Chip
from nl_jax.training.optimizer import make_schedule
from nl_jax.training.task import Example, Task

TPUS = ("v5e", "v5p", "v6e")
GPUS = ("gpu", "a100", "h100", "h200")


@dataclasses.dataclass(frozen=True)
class Pod:
    """`count` devices of one kind; `chip` is None if the kind is not known."""

    name: str
    platform: str
    devices: tuple[jax.Device, ...]
    chip: Chip | None

    @property
    def count(self) -> int:
        """Returns the number of devices."""
        return len(self.devices)


@dataclasses.dataclass
class Plan:
    """The plan of one setting on one pod. Bytes and operations are per chip.

    Attributes:
      mesh: size of each axis of the mesh.
      batch_size: examples in a batch.
      batch_per_chip: examples in each part of the batch. Several chips share a part if the mesh also splits frames.
      remat: stages whose activations are recomputed, as in config.model.remat.
      parts: bytes of each part of the memory; None if only the compiler knows them.
      operations: floating point operations that the network needs: three times the operations of the forward pass. A
        multiply-add counts as two operations.
      needed: bytes of the whole program; None if only the compiler knows them.
      limit: bytes of memory that the program may use; None if they are not known.
      error: the compiler's error for a program that does not fit.
      compiled_operations: floating point operations of the compiled program, with loops counted once.
      moved: bytes of memory traffic of the compiled program, with loops counted once.
      collectives: the communication between chips.
      unit: the word for an example of a batch.
    """

    mesh: dict[str, int]
    batch_size: int
    batch_per_chip: int
    remat: tuple[str, ...]
    parts: dict[str, float | None]
    operations: float
    needed: float | None = None
    limit: float | None = None
    error: str | None = None
    compiled_operations: float | None = None
    moved: float | None = None
    collectives: list[Collective] = dataclasses.field(default_factory=list)
    unit: str = "example"

    @property
    def fits(self) -> bool | None:
        """Returns whether the program fits in the memory of a chip; None if only the compiler knows it."""
        if self.error or self.needed is None:
            return False if self.error else None
        return self.needed <= self.limit

    def seconds(self, chip: Chip, dtype: str) -> dict[str, float]:
        """Returns the minimum seconds of a step for arithmetic, memory traffic and collectives, at published peaks.

        Args:
          chip: the published peaks.
          dtype: type of the matrix products.
        """
        peak = chip.flops if dtype == "bfloat16" else chip.flops32
        return {
            "arithmetic": max(self.operations, self.compiled_operations or 0) / peak,
            "memory traffic": (self.moved or 0) / chip.bandwidth,
            "collectives": sum(c.sent for c in self.collectives) / chip.links,
        }

    def batch_that_fits(self) -> int:
        """Estimates the largest batch on a chip. It assumes that all memory except the state grows with the batch."""
        state = sum(self.parts[name] for name in STATE)
        return int((self.limit - state) / ((self.needed - state) / self.batch_per_chip))


STATE = ("parameters", "optimizer state", "batch norm statistics")


def find_pod(topology: str) -> Pod:
    """Returns the pod of a topology such as "v5e:4x4", "v5p:2x2x2" or "h100:8", or "gpu:8" for an unknown GPU.

    Raises:
      InputError: the topology does not exist, or it is a TPU slice and libtpu is not installed.
    """
    name, _, shape = topology.partition(":")
    if name in GPUS and re.fullmatch(r"[1-9]\d*", shape):
        return Pod(topology, "gpu", _stand_ins(int(shape)), CHIPS.get(name))
    if name not in TPUS or not re.fullmatch(r"\d+(x\d+)+", shape):
        raise InputError(
            f"--topology={topology} is unknown; choose the kind and shape of a TPU slice, such as v5e:4x4 or "
            f"v5p:2x2x2, or the kind and number of GPUs: {', '.join(f'{gpu}:8' for gpu in GPUS)}"
        )
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:  # libtpu, or its absence, may raise any type
        reason = str(error).strip().splitlines()[0]
        raise InputError(f'--topology={topology}: {reason}; TPUs need libtpu, pip install -e ".[tpu]"') from error
    return Pod(topology, "tpu", tuple(description.devices), CHIPS[name])


def without_accelerators() -> None:
    """Makes JAX use only the CPU. Stops libtpu from asking the cloud for metadata and from locking a chip.

    It must be called before JAX starts.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    jax.config.update("jax_platforms", "cpu")


def shares(mesh: Mesh) -> int:
    """Returns the number of parts into which the mesh divides a batch."""
    return mesh.size // sharding.batch_sharding(mesh).shard_shape((mesh.size,))[0]


def make_plan(config: ConfigDict, pod: Pod, num_classes: int, example: Example) -> Plan:
    """Compiles the step of a run on the pod.

    Args:
      config: the config of the run.
      pod: the pod.
      num_classes: number of classes.
      example: shapes of one example.

    Raises:
      InputError: the mesh, the batch and the devices do not fit together.
    """
    mesh = sharding.make_mesh(**config.mesh, devices=pod.devices)
    task = task_of(config)
    sharding.check_batch("batch_size", config.batch_size, mesh, config.accumulate_steps)
    task.check_mesh(mesh, num_classes, example)
    plan = _before_compiling(task, mesh, num_classes, example)
    with devices.compiling_for(pod.platform, pod.count):
        traced = trace_run(task, mesh, num_classes, example)
        if pod.platform == "gpu":  # compiling needs a GPU
            lowered = traced.lower(lowering_platforms=("cuda",))
            plan.compiled_operations = lowered.cost_analysis()["flops"] / pod.count
            return plan
        lowered = traced.lower()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        plan.error = str(error)
        plan.needed, plan.limit = _used_of(plan.error)
        return plan
    memory = compiled.memory_analysis()
    plan.parts["activations, gradients and other temporaries"] = memory.temp_size_in_bytes
    plan.parts["program"] = memory.generated_code_size_in_bytes
    known = sum(plan.parts[name] for name in (*STATE, "batch"))
    # The step updates the state in place. Only results outside the memory of the arguments need new memory.
    plan.parts["padding of arrays"] = memory.argument_size_in_bytes - known
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    plan.needed, plan.limit = sum(plan.parts.values()) + new, pod.chip.memory
    cost = compiled.cost_analysis()
    plan.compiled_operations, plan.moved = cost["flops"], cost["bytes accessed"]
    plan.collectives = collectives(compiled.as_text(), pod.count)
    return plan


def as_dict(plan: Plan) -> dict:
    """Returns the plan as a dict for JSON."""
    return dataclasses.asdict(plan) | {"fits": plan.fits}


def _before_compiling(task: Task, mesh: Mesh, num_classes: int, example: Example) -> Plan:
    """Returns the part of a plan that the shapes and their sharding determine."""
    config = task.config
    optimizer = task.optimizer(make_schedule(config.optimizer, config.steps))
    _, state = abstract_state(partial(task.build, num_classes), optimizer, mesh)
    trees = (state.params, state.opt_state, state.batch_stats, abstract_batch(example, config.batch_size, mesh))
    sizes = dict(zip((*STATE, "batch"), map(_bytes_of_one, trees), strict=True))
    return Plan(
        unit=task.unit,
        mesh=dict(mesh.shape),
        batch_size=config.batch_size,
        batch_per_chip=config.batch_size // shares(mesh),
        remat=tuple(config.model.remat),
        parts=sizes | {"activations, gradients and other temporaries": None, "program": None},
        operations=2 * 3 * task.summary(num_classes, example).macs * config.batch_size / mesh.size,
    )


def _bytes_of_one(tree) -> int:
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _used_of(message: str) -> tuple[float | None, float | None]:
    """Returns the bytes that a program needs and may use: the first two sizes in the compiler's message."""
    sizes = [float(n) * 2.0 ** (10 * "KMGT".index(unit) + 10) for n, unit in re.findall(r"([\d.]+)([KMGT])\b", message)]
    return (sizes[0], sizes[1]) if len(sizes) > 1 else (None, None)


def _stand_ins(count: int) -> tuple[jax.Device, ...]:
    """Returns CPU devices for the mesh of a program that is lowered for GPUs. The program never runs on them."""
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        pass  # JAX has already started with a fixed number of devices
    found = tuple(jax.devices("cpu")[:count])
    if len(found) < count:
        raise InputError(f"--topology: {count} devices are needed, and JAX has already started with {len(found)}")
    return found
