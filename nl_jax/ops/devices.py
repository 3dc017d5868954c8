"""What an operation may know of where it runs: whether its arrays are split over devices, and the frames of a clip.

An axis `time` of the mesh in whose context a program is traced splits the frames (and so the positions) of a clip. The
compiler exchanges what a convolution needs from its neighbours and reduces sums by itself; the functions here keep it
from gathering whole clips where axes are merged and where queries are taken in chunks.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Shaped

TIME = "time"

_target: tuple[str, int] | None = None


@contextmanager
def compiling_for(platform: str, count: int) -> Iterator[None]:
    """Within it operations choose what they would on `count` devices of "tpu" or "gpu", whatever this machine has."""
    global _target
    before, _target = _target, (platform, count)
    try:
        yield
    finally:
        _target = before


def platform() -> str:
    """This machine's, "cpu", "gpu" or "tpu", or the one that `compiling_for` names."""
    return _target[0] if _target else jax.default_backend()


def partitioned() -> bool:
    """Whether the compiler may split what is being traced over devices.

    Inside `jax.shard_map` the axes of the mesh are manual: a function there sees the arrays of one device.
    """
    count = _target[1] if _target else jax.device_count()
    return count > 1 and not jax.sharding.get_abstract_mesh().are_all_axes_manual


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


def split_frames(x: Shaped[Array, "g n *s"], b: int, t: int) -> Shaped[Array, "b t *s"]:
    """Undoes `merge_frames`."""
    (groups, _, *s), parts = x.shape, _parts_of(t)
    return x.reshape(groups, parts, b // groups, t // parts, *s).swapaxes(1, 2).reshape(b, t, *s)


def by_query(operation: Callable[..., Array]) -> Callable[..., Array]:
    """`operation(queries (b,n,..), *keys (b,m,..)) -> (b,n,..)` with queries split as the frames are, and whole keys.

    Left to the compiler, a loop over chunks of queries would gather them all, or add up over devices in every turn.
    """
    if time_parts() == 1:
        return operation

    def split(queries, *keys):
        specs = (PartitionSpec(None, TIME), *(PartitionSpec() for _ in keys))
        apply = jax.shard_map(operation, in_specs=specs, out_specs=specs[0], axis_names={TIME}, check_vma=False)
        return apply(queries, *keys)

    return split


def _parts_of(frames: int) -> int:
    """Those of an axis; one that does not divide (of an image) is not of time."""
    return time_parts() if frames % time_parts() == 0 else 1
