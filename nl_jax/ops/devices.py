"""What an operation may know of where it runs: the platform, the chip, whether arrays are split, the frames of a clip.

Every operation asks here, while it is traced, and here alone. So a program traced for another platform, inside
`compiling_for`, has that platform's forms everywhere.

An axis `time` of the mesh in whose context a program is traced splits the frames (and so the positions) of a clip. The
compiler exchanges what a convolution needs from its neighbours and reduces sums by itself; the functions here keep it
from gathering whole clips where axes are merged and where queries are taken in chunks.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Shaped

TIME = "time"
# Of an array: numbers, or symbols in a program that is exported for any of them.
Shape = tuple[Any, ...]


class Target(NamedTuple):
    """What a program is traced for.

    Attributes:
      platform: "cpu", "gpu" or "tpu".
      count: of its devices.
      capability: the compute capability of an NVIDIA GPU, (9, 0) for Hopper; None where it is not known.
    """

    platform: str
    count: int
    capability: tuple[int, int] | None = None


# Part of the key under which JAX caches what it has traced: the same function is traced anew for another target.
_target = jax.make_user_context()


def compiling_for(
    platform: str, count: int = 1, capability: tuple[int, int] | None = None
) -> AbstractContextManager[None]:
    """Within it operations choose what they would on `count` devices of a platform, whatever this machine has.

    Args:
      platform: "cpu", "gpu" or "tpu".
      count: of devices.
      capability: the compute capability of an NVIDIA GPU, (9, 0) for Hopper. Without it the oldest is assumed.
    """
    return _target(Target(platform, count, capability))


def target() -> Target:
    """What is traced for: the devices of this machine, or what `compiling_for` names.

    Within `jax.default_device` it is that device's platform.
    """
    if (named := _target.value) is not None:
        return named
    default = jax.config.jax_default_device
    device = jax.devices(default)[0] if isinstance(default, str) else default or jax.devices()[0]
    capability = None
    if device.platform == "gpu":
        major, _, minor = str(device.compute_capability).partition(".")  # an AMD GPU has a name in its place
        capability = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
    return Target(device.platform, jax.device_count(), capability)


def platform() -> str:
    """The platform of `target`: "cpu", "gpu" or "tpu"."""
    return target().platform


def partitioned() -> bool:
    """Whether the compiler may split what is being traced over devices.

    Inside `jax.shard_map` the axes of the mesh are manual: a function there sees the arrays of one device.
    """
    return target().count > 1 and not jax.sharding.get_abstract_mesh().are_all_axes_manual


def known(*sizes: object) -> bool:
    """Whether sizes are numbers: a program that is exported for any batch is traced with a symbol in its place."""
    return all(isinstance(size, int) for size in sizes)


def knows_cudnn() -> bool:
    """Whether JAX can trace a kernel of cuDNN here: it asks the GPU and its cuDNN while it traces."""
    return jax.default_backend() == "gpu" and "cuda" in jax.devices()[0].client.platform_version


def options_for_memory() -> dict[str, object]:
    """Options of `jax.jit` with which a CPU plans a program for little memory; none on other platforms.

    XLA:CPU runs in parallel whatever it can, and starts with copies of donated arrays, so that much is alive at once.
    With these options it orders the program for memory, and copies a donated array only where it must.
    """
    if platform() != "cpu" or jax.__version_info__ < (0, 10):  # whose XLA does not know them
        return {}
    return {
        "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
        "xla_cpu_copy_insertion_use_region_analysis": True,
    }


def time_parts() -> int:
    """Over how many devices the frames of a clip are split."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if TIME in mesh.manual_axes else mesh.shape.get(TIME, 1)


def merge_frames(x: Shaped[Array, "b t *s"], groups: int = 1) -> Shaped[Array, "g n *s"]:
    """The frames of every group of clips as one axis of n = b / groups * t, for what is done to each by itself.

    Merged clip by clip, they could be split over devices only where each holds one clip. So the part of the time axis
    that a device holds comes before the clips; on one device that is the plain order.
    """
    (b, t, *s), parts = x.shape, _parts_of(x.shape[1])
    return x.reshape(groups, b // groups, parts, t // parts, *s).swapaxes(1, 2).reshape(groups, -1, *s)


def split_frames(x: Shaped[Array, "g n *s"], b: Any, t: Any) -> Shaped[Array, "b t *s"]:
    """Undoes `merge_frames`."""
    (groups, _, *s), parts = x.shape, _parts_of(t)
    return x.reshape(groups, parts, b // groups, t // parts, *s).swapaxes(1, 2).reshape(b, t, *s)


def by_query(operation: Callable[..., Array]) -> Callable[..., Array]:
    """`operation(queries (b,n,..), *keys (b,m,..)) -> (b,n,..)` with queries split as the frames are, and whole keys.

    Left to the compiler, a loop over chunks of queries would gather them all, or add up over devices in every turn.
    """
    if time_parts() == 1:
        return operation

    def split_by_query(queries, *keys):
        specs = (PartitionSpec(None, TIME), *(PartitionSpec() for _ in keys))
        apply = jax.shard_map(operation, in_specs=specs, out_specs=specs[0], axis_names={TIME}, check_vma=False)
        return apply(queries, *keys)

    return split_by_query


def _parts_of(frames: Any) -> int:
    """Those of an axis; one that does not divide (of an image) is not of time."""
    return time_parts() if frames % time_parts() == 0 else 1
