"""What an operation may know of where it runs."""

import jax


def partitioned() -> bool:
    """Whether the compiler may split what is being traced over devices.

    Inside `jax.shard_map` the axes of the mesh are manual: a function there sees the arrays of one device.
    """
    return jax.device_count() > 1 and not jax.sharding.get_abstract_mesh().are_all_axes_manual
