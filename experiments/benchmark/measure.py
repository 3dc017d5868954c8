"""Time and memory of programs that do the same, taken in turns in one process."""

import ctypes
import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

STATUS = Path("/proc/self/status")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One program on one size.

    Attributes:
      case: what is computed, the same for all programs that are compared.
      positions: places of the clip, n.
      program: "ours", or the peer's name.
      seconds: median over the repeats.
      ratio: seconds over those of ours: above 1, ours is faster.
      peak_bytes: memory taken next to the arguments; None where it is not known.
      gflops: 2 x multiply-adds that the program needs / seconds / 1e9.
      of_peak: the same relative to this machine's own matrix product.
    """

    case: str
    positions: int
    program: str
    seconds: float
    ratio: float
    peak_bytes: int | None
    gflops: float
    of_peak: float


class Program(NamedTuple):
    """Something to time.

    Attributes:
      run: returns when it is done.
      operations: floating point operations that it needs.
      peak_bytes: where it is known; otherwise the growth of the process in its first run is taken.
    """

    run: Callable[[], object]
    operations: float
    peak_bytes: int | None = None


def compiled_bytes(step: jax.stages.Wrapped, *args) -> int:
    """Memory of a compiled program next to its arguments: results and temporary."""
    memory = step.lower(*args).compile().memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes


def compare(case: str, positions: int, programs: dict[str, Program], repeats: int) -> list[Measurement]:
    """Runs every program once to compile and warm up, then all in turns. The first is ours."""
    print(f"{case}, {positions} positions; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", file=sys.stderr)
    memory = {}
    for name, program in programs.items():
        grown = peak_bytes(program.run)
        memory[name] = grown if program.peak_bytes is None else program.peak_bytes
    times = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            start = time.perf_counter()
            program.run()
            times[name].append(time.perf_counter() - start)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    ours = seconds[next(iter(programs))]
    peak = matrix_product_gflops()
    result = []
    for name, program in programs.items():
        gflops = program.operations / seconds[name] / 1e9
        result.append(
            Measurement(case, positions, name, seconds[name], seconds[name] / ours, memory[name], gflops, gflops / peak)
        )
    return result


def peak_bytes(run: Callable[[], object]) -> int | None:
    """The most that the process grows while `run` runs; Linux only. Memory that the allocator kept does not show."""
    reset = Path("/proc/self/clear_refs")
    if not STATUS.exists() or not reset.exists():
        run()
        return None
    ctypes.CDLL(None).malloc_trim(0)
    reset.write_text("5")  # the high-water mark starts from now
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def matrix_product_gflops(size: int = 2048, repeats: int = 5) -> float:
    """What a product of two square float32 matrices reaches here."""
    a = jnp.ones((size, size), jnp.float32)
    multiply = jax.jit(jnp.matmul)
    multiply(a, a).block_until_ready()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        multiply(a, a).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(times) / 1e9


def _status(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])
