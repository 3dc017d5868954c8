"""Facts about where an operation runs: the platform, the chip, whether arrays are split, and the frames of a clip.

Every operation asks here, and only here, while it is traced. So a program traced for another platform, inside
`compiling_for`, uses the forms of that platform everywhere.

A program may be traced in the context of a mesh with an axis `time`. This axis splits the frames (and so the positions)
of a clip. The compiler exchanges the neighbouring frames that a convolution needs, and it adds up sums by itself. The
functions here stop the compiler from gathering whole clips when axes are merged and when queries are taken in chunks.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Shaped

TIME = "time"
# The shape of an array: numbers, or symbols in a program that is exported for any size.
Shape = tuple[Any, ...]


class Target(NamedTuple):
    """The devices that a program is traced for.

    Attributes:
      platform: "cpu", "gpu" or "tpu".
      count: the number of devices.
      capability: the compute capability of an NVIDIA GPU, (9, 0) for Hopper. None where it is not known.
    """

    platform: str
    count: int
    capability: tuple[int, int] | None = None


# JAX adds this value to the key of its trace cache: the same function is traced anew for another target.
_target = jax.make_user_context()


def compiling_for(
    platform: str, count: int = 1, capability: tuple[int, int] | None = None
) -> AbstractContextManager[None]:
    """Returns a context in which operations make the choices for the platform `platform`, not for this machine.

    Args:
      platform: "cpu", "gpu" or "tpu".
      count: the number of devices.
      capability: the compute capability of an NVIDIA GPU, (9, 0) for Hopper. None stands for the oldest GPU.
    """
    return _target(Target(platform, count, capability))


def target() -> Target:
    """Returns the target of the trace: the devices of this machine, or the target that `compiling_for` names.

    Within `jax.default_device` the target has the platform of the default device.
    """
    if (named := _target.value) is not None:
        return named
    default = jax.config.jax_default_device
    device = jax.devices(default)[0] if isinstance(default, str) else default or jax.devices()[0]
    capability = None
    if device.platform == "gpu":
        major, _, minor = str(device.compute_capability).partition(".")  # an AMD GPU has a name here instead
        capability = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
    return Target(device.platform, jax.device_count(), capability)


def platform() -> str:
    """Returns the platform of `target`: "cpu", "gpu" or "tpu"."""
    return target().platform


def partitioned() -> bool:
    """Returns whether the compiler may split the traced computation over devices.

    Inside `jax.shard_map` the axes of the mesh are manual: the function there sees the arrays of one device.
    """
    return target().count > 1 and not jax.sharding.get_abstract_mesh().are_all_axes_manual


def known(*sizes: object) -> bool:
    """Returns whether all sizes are numbers. A program that is exported for any batch has a symbol as this size."""
    return all(isinstance(size, int) for size in sizes)


def knows_cudnn() -> bool:
    """Returns whether JAX can trace a cuDNN kernel here. JAX asks the GPU and its cuDNN while it traces."""
    return jax.default_backend() == "gpu" and "cuda" in jax.devices()[0].client.platform_version


def options_for_memory() -> dict[str, object]:
    """Returns compiler options of `jax.jit` that save memory on a CPU. They are empty on other platforms.

    By default XLA:CPU runs operations in parallel and copies donated arrays first, so that many arrays are alive at the
    same time. With these options XLA:CPU chooses the order that needs the least memory, and copies a donated array only
    where it must.
    """
    if platform() != "cpu" or jax.__version_info__ < (0, 10):  # older versions of XLA do not know these options
        return {}
    return {
        "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
        "xla_cpu_copy_insertion_use_region_analysis": True,
    }


def time_parts() -> int:
    """Returns the number of devices that the frames of a clip are split over."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if TIME in mesh.manual_axes else mesh.shape.get(TIME, 1)


def merge_frames(x: Shaped[Array, "b t *s"], groups: int = 1) -> Shaped[Array, "g n *s"]:
    """Merges the frames of every group of clips into one axis of n = b / groups * t, for operations on single frames.

    On one device the frames come clip by clip. If the time axis is split over devices, the frames of one device must be
    neighbours, or the compiler gathers whole clips. So the order is then: the part of the time axis, the clip, the
    frame.
    """
    (b, t, *s), parts = x.shape, _parts_of(x.shape[1])
    return x.reshape(groups, b // groups, parts, t // parts, *s).swapaxes(1, 2).reshape(groups, -1, *s)


def split_frames(x: Shaped[Array, "g n *s"], b: Any, t: Any) -> Shaped[Array, "b t *s"]:
    """Returns x as b clips of t frames: the inverse of `merge_frames`."""
    (groups, _, *s), parts = x.shape, _parts_of(t)
    return x.reshape(groups, parts, b // groups, t // parts, *s).swapaxes(1, 2).reshape(b, t, *s)


def by_query(operation: Callable[..., Array]) -> Callable[..., Array]:
    """Returns `operation` with its queries split over devices in the same way as the frames. The keys stay whole.

    Without this split the compiler would gather all queries for a loop over chunks, or would sum over devices in every
    turn of the loop.

    Args:
      operation: function of queries (b,n,..) and of keys (b,m,..) that returns (b,n,..).
    """
    if time_parts() == 1:
        return operation

    def split_by_query(queries, *keys):
        specs = (PartitionSpec(None, TIME), *(PartitionSpec() for _ in keys))
        apply = jax.shard_map(operation, in_specs=specs, out_specs=specs[0], axis_names={TIME}, check_vma=False)
        return apply(queries, *keys)

    return split_by_query


def _parts_of(frames: Any) -> int:
    """Returns the number of parts of an axis of `frames`. It is 1 if the axis does not divide evenly (an image)."""
    return time_parts() if frames % time_parts() == 0 else 1
