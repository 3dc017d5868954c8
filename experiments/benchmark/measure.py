"""Measures the time and memory of programs with the same result. The programs take turns in one process."""

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
    """The measurement of one program for one size.

    Attributes:
      case: name of the computation, the same for all programs that are compared.
      positions: n, the number of positions of the clip.
      program: "ours", or the name of the peer.
      seconds: median over the repeats.
      ratio: seconds of the program over the seconds of ours; ours is faster if it is above 1.
      peak_bytes: memory besides the arguments; None if it is not known.
      gflops: 2 x multiply-adds that the program needs, over seconds x 1e9.
      of_peak: gflops over the gflops of a matrix product on this machine.
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
    """A program to time.

    Attributes:
      run: a function that returns when the computation is complete.
      operations: floating point operations that the program needs.
      peak_bytes: memory besides the arguments; None takes the growth of the process in the first run.
    """

    run: Callable[[], object]
    operations: float
    peak_bytes: int | None = None


def compiled_bytes(step: jax.stages.Wrapped, *args) -> int:
    """Returns the bytes of a compiled program's results and temporaries, without its arguments."""
    memory = step.lower(*args).compile().memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes


def compare(case: str, positions: int, programs: dict[str, Program], repeats: int) -> list[Measurement]:
    """Runs every program once to compile it, then all programs in turns. The first program is ours."""
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
    """Returns the maximum growth of the process during `run`, in bytes; None on systems other than Linux.

    Memory that the allocator had kept from before is not counted.
    """
    reset = Path("/proc/self/clear_refs")
    if not STATUS.exists() or not reset.exists():
        run()
        return None
    ctypes.CDLL(None).malloc_trim(0)
    reset.write_text("5")  # resets the high-water mark
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def matrix_product_gflops(size: int = 2048, repeats: int = 5) -> float:
    """Returns the GFLOP/s of a product of two square float32 matrices on this machine."""
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
