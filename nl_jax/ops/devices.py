"""What an operation may know of where it runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

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
    return _target[0] if _target else jax.default_backend()


def partitioned() -> bool:
    """Whether the compiler may split what is being traced over devices.

    Inside `jax.shard_map` the axes of the mesh are manual: a function there sees the arrays of one device.
    """
    count = _target[1] if _target else jax.device_count()
    return count > 1 and not jax.sharding.get_abstract_mesh().are_all_axes_manual
