"""All rules of which device holds which part of an array.

Axes of the mesh: `data` splits the batch, `fsdp` the batch and the state, `time` the frames of every clip.

An array of the state is split over `fsdp`, along its largest axis that `fsdp` divides. XLA gathers it for its use.
Small arrays stay whole, because gathering them costs more than the memory saved. Each device of `time` has its frames
of a clip, and so its part of every activation. `ops.devices` describes the exchanges between them.
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
    """Returns a mesh over all devices, or over the given ones. With data=-1, `data` takes the devices that are left.

    Raises:
      InputError: for sizes that do not fit the number of devices.
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
    """Raises InputError unless the batch divides over the mesh, in each of the `accumulate` parts of a step."""
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
    """Raises InputError unless `time` divides the number of frames at every place in the network."""
    time = mesh.shape["time"]
    if any(count % time for count in frames.values()):
        fitting = [d for d in _divisors(math.gcd(*frames.values())) if mesh.size % d == 0]
        found = ", ".join(f"{place} {count}" for place, count in frames.items())
        raise InputError(f"mesh.time={time} does not divide the frames everywhere ({found}); use one of {fitting}")


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that is whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, ndim: int = 1, accumulate: int = 1) -> NamedSharding:
    """Returns the sharding of an array (b,..), or with `accumulate` (k,b/k,..). Five axes are clips (b,t,h,w,c)."""
    parts = (None,) if accumulate > 1 else ()
    return NamedSharding(mesh, PartitionSpec(*parts, BATCH, *(("time",) if ndim == 5 else ())))


def state_shardings(mesh: Mesh, state: PyTree) -> PyTree[NamedSharding]:
    """Returns the shardings of all arrays of a state, or of its shapes, by the rules above."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, _spec(leaf.shape, mesh.shape["fsdp"])), state)


def laid_out(mesh: Mesh, state: PyTree) -> PyTree[jax.ShapeDtypeStruct]:
    """Returns the shapes of all arrays of a state with their `state_shardings`."""
    shardings = state_shardings(mesh, state)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)


def within(mesh: Mesh, function: Callable) -> Callable:
    """Returns `function`, traced inside the mesh so that `ops.devices` can ask for its axes."""

    @functools.wraps(function)
    def traced(*arguments):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return traced


@functools.lru_cache
def local_rows(mesh: Mesh, batch_size: int, accumulate: int = 1) -> tuple[int, ...]:
    """Returns the rows of a batch whose clips have frames on this process's devices, in order.

    A batch taken in `accumulate` parts is split part by part, so that every device has its share of each part.
    """
    rows = np.arange(batch_size).reshape(accumulate, -1)
    held = NamedSharding(mesh, PartitionSpec(None, BATCH)).addressable_devices_indices_map(rows.shape)
    return tuple(np.unique(np.concatenate([rows[index].ravel() for index in held.values()])).tolist())


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh, accumulate: int = 1) -> dict[str, jax.Array]:
    """Puts this process's `local_rows` of a batch on the devices, as one array (b,..) over those of all processes.

    With `accumulate` above 1 the array is (k,b/k,..), the parts of a step one after another.
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
