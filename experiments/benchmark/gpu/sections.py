"""The sections of `python -m experiments.benchmark gpu`, in their order."""

import argparse
import os
import platform
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

from experiments.benchmark.gpu import convolutions, forms, operations, steps, theirs
from experiments.benchmark.gpu.networks import Networks
from experiments.benchmark.gpu.record import Record, alternate
from nl_jax.ops import devices

# For each section: its maximum seconds, and the minimum seconds that must be left to start it.
LIMITS = {
    **{"machine": (40, 5), "forms": (90, 20), "steps": (90, 30), "smoke": (120, 30), "operations": (60, 20)},
    **{"networks": (330, 50), "further_operations": (80, 20), "memory": (60, 15), "convolutions": (60, 15)},
    **{"chunks": (60, 20), "profile": (90, 10)},
}


def run(arguments: argparse.Namespace) -> None:
    """Runs the chosen sections. Exits with code 1 if a check failed."""
    if not jax.config.jax_compilation_cache_dir:  # a second run on the same machine then compiles nothing
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "nl_jax" / "compiled"))
    record = Record(arguments.out, arguments.seconds)
    small = arguments.small
    products: dict[str, float] = {}
    networks = Networks(record, small, products)
    programs = {
        "machine": partial(_machine, record, small, products),
        "forms": partial(forms.check, record, small, arguments.only),
        "steps": partial(steps.check, record, small),
        "smoke": networks.smoke,
        "operations": partial(operations.measure, record, small, arguments.only),
        "networks": networks.measure,
        "further_operations": partial(operations.measure_further, record, small, arguments.only),
        "memory": partial(operations.memory, record, small),
        "convolutions": partial(convolutions.measure, record, small),
        "chunks": partial(operations.chunk_sizes, record, small),
        "profile": networks.profile,
    }
    asked = {"machine", *arguments.sections}  # the other sections need the matrix products of the section machine
    for name in ("machine", *(name for name in arguments.sections if name != "machine")):
        if name in asked:
            record.section(name, programs[name], *LIMITS[name])
    record.note(f"{record.failures} failures; wrote {arguments.out}/gpu.jsonl and gpu.txt")
    if record.failures:
        sys.exit(1)


def _machine(record: Record, small: bool, products: dict[str, float]) -> None:
    """Records the chip, the versions, and the speed of matrix products and copies with JAX and PyTorch."""
    device, target = jax.devices()[0], devices.target()
    versions = {"jax": jax.__version__, "torch": torch.__version__, "cudnn of torch": torch.backends.cudnn.version()}
    versions |= {"python": platform.python_version(), "of JAX's platform": device.client.platform_version}
    record.add(
        f"{device.device_kind}, compute capability {target.capability}, {os.cpu_count()} cores; "
        + ", ".join(f"{name} {' '.join(str(version).split())}" for name, version in versions.items()),
        **{"kind": device.device_kind, "capability": target.capability, "versions": versions},
    )
    theirs.prepare(small)
    size = 256 if small else 8192
    given = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    for dtype in ("bfloat16", "float32"):
        a = jnp.asarray(given, dtype)
        b = torch.tensor(given, device=theirs.DEVICE, dtype=getattr(torch, dtype))
        multiply = jax.jit(lambda x: x @ x)
        programs = {"jax": partial(_repeat, multiply, a), "torch": theirs.looped(lambda b=b: b @ b)}
        rates = {name: 2 * size**3 / seconds for name, seconds in alternate(programs, rounds=1 if small else 5).items()}
        products[dtype] = max(rates.values())
        text = ", ".join(f"{name} {rate / 1e12:.1f} TFLOP/s" for name, rate in rates.items())
        record.add(f"matrix product {size}^3 in {dtype}: {text}", what=f"product {dtype}", rates=rates)
    x = jnp.ones((2**20 if small else 2**30,), jnp.bfloat16)
    seconds = alternate({"jax": partial(_repeat, jax.jit(lambda x: x + 1), x)}, rounds=3)["jax"]
    rate = 2 * x.nbytes / seconds
    record.add(f"memory: {rate / 1e12:.2f} TB/s, read and written", what="memory", rate=rate)


def _repeat(step, x, count: int) -> None:
    for _ in range(count):
        y = step(x)
    y.block_until_ready()
