"""The published peaks of accelerators, to compare a measured or planned step with them."""

import dataclasses

import jax

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """The peaks of one chip (one `jax.Device`).

    Attributes:
      memory: bytes.
      flops: operations a second of a bfloat16 matrix product. A multiply-add counts as two operations.
      flops32: operations a second of a float32 product at JAX's default precision: bfloat16 passes on a TPU,
        TF32 on a GPU.
      bandwidth: bytes a second to and from its memory.
      links: bytes a second that it sends to other chips of the slice or machine, while it receives as many bytes.
      kinds: its names in `jax.Device.device_kind`.
      source: source of the figures.
    """

    memory: int
    flops: float
    flops32: float
    bandwidth: float
    links: float
    kinds: tuple[str, ...]
    source: str


_TPU, _NVIDIA = "https://docs.cloud.google.com/tpu/docs", "https://resources.nvidia.com, data sheet of the"
CHIPS = {
    "v5e": Chip(16 * GIB, 197e12, 197e12, 819e9, 200e9, ("TPU v5 lite", "TPU v5e"), f"{_TPU}/v5e"),
    "v5p": Chip(95 * GIB, 459e12, 459e12, 2765e9, 600e9, ("TPU v5", "TPU v5p"), f"{_TPU}/v5p"),
    "v6e": Chip(32 * GIB, 918e12, 918e12, 1638e9, 400e9, ("TPU v6 lite", "TPU v6e"), f"{_TPU}/v6e"),
    "a100": Chip(80 * GIB, 312e12, 156e12, 2039e9, 300e9, ("NVIDIA A100-SXM4-80GB",), f"{_NVIDIA} A100 80GB SXM"),
    "h100": Chip(80 * GIB, 989e12, 494e12, 3350e9, 450e9, ("NVIDIA H100 80GB HBM3",), f"{_NVIDIA} H100 SXM"),
    "h200": Chip(140 * GIB, 989e12, 494e12, 4800e9, 450e9, ("NVIDIA H200",), f"{_NVIDIA} H200 SXM"),
}


def peak_flops(dtype: str) -> float | None:
    """Returns the peak of all devices of this run together, in operations a second.

    Args:
      dtype: type of the network: "bfloat16", or another type, which counts as float32.

    Returns:
      the peak, or None if the devices are not in `CHIPS`.
    """
    devices = jax.devices()
    for chip in CHIPS.values():
        if devices[0].device_kind in chip.kinds:
            return len(devices) * (chip.flops if dtype == "bfloat16" else chip.flops32)
    return None
