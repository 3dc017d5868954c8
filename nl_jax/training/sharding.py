"""Every rule of what lives where. Axes of the mesh: `data` splits the batch, `fsdp` the batch and the state.

An array of the state is split over `fsdp` along its largest axis that divides, and gathered by XLA where it is used;
small ones are kept whole, since gathering them costs more than they weigh.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from nl_jax.errors import InputError

MIN_SHARDED_SIZE = 2**14


def make_mesh(data: int, fsdp: int, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices; data=-1 takes those that fsdp leaves. Raises InputError where it does not fit.

    Args:
      devices: in place of those of this machine, such as those of a pod that is only compiled for.
    """
    count = jax.device_count() if devices is None else len(devices)
    if fsdp < 1 or count % fsdp:
        raise InputError(f"mesh.fsdp={fsdp} does not divide the {count} devices; use one of {_divisors(count)}")
    if data == -1:
        data = count // fsdp
    if data * fsdp != count:
        raise InputError(
            f"mesh.data={data} x mesh.fsdp={fsdp} is not the number of devices, {count}; "
            f"mesh.data=-1 takes the {count // fsdp} that are left"
        )
    return jax.make_mesh((data, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def check_batch(name: str, batch_size: int, mesh: Mesh) -> None:
    """Raises InputError unless the batch divides over the mesh."""
    if batch_size < 1 or batch_size % mesh.size:
        below = batch_size // mesh.size * mesh.size
        nearest = [size for size in (below, below + mesh.size) if size > 0] or [mesh.size]
        raise InputError(
            f"{name}={batch_size} does not divide over the mesh of {mesh.size} devices "
            f"(data={mesh.shape['data']}, fsdp={mesh.shape['fsdp']}); the nearest that do: {nearest}"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def state_shardings(mesh: Mesh, state: PyTree) -> PyTree[NamedSharding]:
    return jax.tree.map(lambda leaf: NamedSharding(mesh, _spec(leaf.shape, mesh.shape["fsdp"])), state)


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's share of a batch as one array over all devices of all processes."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def _spec(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    axes = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or not axes or np.prod(shape) < MIN_SHARDED_SIZE:
        return PartitionSpec()
    largest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*(None,) * largest, "fsdp")


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
