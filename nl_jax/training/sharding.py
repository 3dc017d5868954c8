"""Decides which device holds which part of an array.

The mesh has three axes. `data` splits the batch. `fsdp` splits the batch and the state. `time` splits the frames of
every clip.

An array of the state is split over `fsdp`, along its largest axis that `fsdp` divides. XLA gathers the array for a
computation that uses it. Small arrays stay whole, because a gather takes time, and the split of a small array saves
little memory. Each device of `time` has its own frames of a clip, and so its own part of every activation.
`ops.devices` describes the exchanges between these devices.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from nl_jax.errors import InputError

AXES = ("data", "fsdp", "time")
BATCH = ("data", "fsdp")
MIN_SHARDED_SIZE = 2**14


def make_mesh(data: int, fsdp: int, time: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of devices with the axes AXES.

    Args:
      data: size of the axis `data`; -1 takes the devices that are left.
      fsdp: size of the axis `fsdp`.
      time: size of the axis `time`.
      devices: the devices; None takes all devices of the run.

    Raises:
      InputError: the sizes do not fit the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    for name, size, rest in (("time", time, count), ("fsdp", fsdp, count // max(time, 1))):
        if size < 1 or rest % size:
            what = "devices" if rest == count else f"of {count} devices that mesh.time={time} leaves"
            raise InputError(f"mesh.{name}={size} does not divide the {rest} {what}; use one of {_divisors(rest)}")
    left = count // (fsdp * time)
    data = left if data == -1 else data
    if data != left:
        raise InputError(
            f"mesh.data={data} x mesh.fsdp={fsdp} x mesh.time={time} is not the number of devices, {count}; "
            f"mesh.data=-1 takes the {left} that are left"
        )
    return jax.make_mesh((data, fsdp, time), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def check_batch(name: str, batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Checks that a batch divides evenly over the mesh.

    Args:
      name: name of the batch size in the config, for the message.
      batch_size: examples in the batch of all processes.
      mesh: the devices.
      accumulate: number of parts of a step. Each part must divide evenly.

    Raises:
      InputError: the batch does not divide evenly.
    """
    unit = mesh.shape["data"] * mesh.shape["fsdp"] * accumulate
    if batch_size < 1 or batch_size % unit:
        below = batch_size // unit * unit
        nearest = [size for size in (below, below + unit) if size > 0] or [unit]
        parts = f" in {accumulate} parts (accumulate_steps)" if accumulate > 1 else ""
        raise InputError(
            f"{name}={batch_size} does not divide over the mesh of {mesh.size} devices "
            f"({', '.join(f'{axis}={mesh.shape[axis]}' for axis in AXES)}){parts}; the nearest that do: {nearest}"
        )


def check_frames(frames: Mapping[str, int], mesh: Mesh) -> None:
    """Checks that `time` divides the number of frames at every place in the network.

    Args:
      frames: {place in the network: number of frames}.
      mesh: the devices.

    Raises:
      InputError: `time` does not divide a number of frames.
    """
    time = mesh.shape["time"]
    if any(count % time for count in frames.values()):
        fitting = [d for d in _divisors(math.gcd(*frames.values())) if mesh.size % d == 0]
        found = ", ".join(f"{place} {count}" for place, count in frames.items())
        raise InputError(f"mesh.time={time} does not divide the frames everywhere ({found}); use one of {fitting}")


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that is whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, ndim: int = 1, accumulate: int = 1) -> NamedSharding:
    """Returns the sharding of an array (b,..) of a batch.

    Args:
      mesh: the devices.
      ndim: number of axes of (b,..). An array with five axes holds clips (b,t,h,w,c), and `time` splits t.
      accumulate: k. If k is above 1, the sharding is for the same array as (k,b/k,..).
    """
    parts = (None,) if accumulate > 1 else ()
    return NamedSharding(mesh, PartitionSpec(*parts, BATCH, *(("time",) if ndim == 5 else ())))


def state_shardings(mesh: Mesh, state: PyTree) -> PyTree[NamedSharding]:
    """Returns the shardings of all arrays of a state, by the rules at the top of this file.

    The state can hold shapes in place of arrays.
    """
    return jax.tree.map(lambda leaf: NamedSharding(mesh, _spec(leaf.shape, mesh.shape["fsdp"])), state)


def laid_out(mesh: Mesh, state: PyTree) -> PyTree[jax.ShapeDtypeStruct]:
    """Returns all arrays of a state as shapes with their `state_shardings`."""
    shardings = state_shardings(mesh, state)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)


def within(mesh: Mesh, function: Callable) -> Callable:
    """Returns `function`, traced inside the mesh so that `ops.devices` can read the axes of the mesh."""

    @functools.wraps(function)
    def traced(*arguments):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return traced


@functools.lru_cache
def local_rows(mesh: Mesh, batch_size: int, accumulate: int = 1) -> tuple[int, ...]:
    """Returns the rows of a batch whose clips have frames on this process's devices, in order.

    With several parts, each part is split over all devices, so that every device has its share of each part.

    Args:
      mesh: the devices.
      batch_size: examples in the batch of all processes.
      accumulate: number of parts of a step.
    """
    rows = np.arange(batch_size).reshape(accumulate, -1)
    held = NamedSharding(mesh, PartitionSpec(None, BATCH)).addressable_devices_indices_map(rows.shape)
    return tuple(np.unique(np.concatenate([rows[index].ravel() for index in held.values()])).tolist())


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh, accumulate: int = 1) -> dict[str, jax.Array]:
    """Puts a batch on the devices, as one array (b,..) for all processes.

    Args:
      batch: the arrays of this process's `local_rows`.
      mesh: the devices.
      accumulate: k, the number of parts of a step. If k is above 1, the arrays become (k,b/k,..), one part after
        another.
    """
    return {name: _put(array, mesh, accumulate) for name, array in batch.items()}


def _put(array: np.ndarray, mesh: Mesh, accumulate: int) -> jax.Array:
    size = mesh.shape["data"] * mesh.shape["fsdp"]
    part = len(array) // accumulate * size // len(local_rows(mesh, size))
    rows = local_rows(mesh, part * accumulate, accumulate)
    sharding = batch_sharding(mesh, array.ndim, accumulate)

    def clips(first: int, index):
        start, stop, _ = index[0].indices(part)
        at = rows.index(first + start)
        return array[(slice(at, at + stop - start), *index[1:])]

    if accumulate == 1:
        return jax.make_array_from_callback((part, *array.shape[1:]), sharding, lambda index: clips(0, index))
    return jax.make_array_from_callback(
        (accumulate, part, *array.shape[1:]),
        sharding,
        lambda index: np.stack([clips(k * part, index[1:]) for k in range(accumulate)]),
    )


def _spec(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    axes = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or not axes or np.prod(shape) < MIN_SHARDED_SIZE:
        return PartitionSpec()
    largest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*(None,) * largest, "fsdp")


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
