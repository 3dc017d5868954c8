"""Measures the growth of the time of our operation when the number of positions n = m doubles. The sizes take turns.

Between two calls the allocator of glibc may return memory to the system, depending on its size. The next call then has
a page fault for every page of this memory. So the time is measured twice: with the usual allocator, and in a process
whose allocator keeps its memory.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.benchmark import op
from nl_jax.ops import nonlocal_op

KEEPING = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**28),
}
ALLOCATORS = {"as it is": {}, "keeps its memory": KEEPING}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--positions",
        type=int,
        default=6272,
        help="n, the number of positions; 2n is measured too; by default %(default)s",
    )
    parser.add_argument("--channels", type=int, default=256, help="number of channels, d = c; by default %(default)s")
    parser.add_argument(
        "--functions",
        nargs="+",
        choices=op.FUNCTIONS,
        default=["dot_product", "concatenation"],
        help="pairwise functions; by default %(default)s",
    )
    parser.add_argument(
        "--in-this-process", action="store_true", help="measure with the allocator of this process, and print JSON"
    )


def run(arguments: argparse.Namespace) -> None:
    if arguments.in_this_process:
        print(json.dumps(_measure(arguments)))
        return
    rows = []
    for allocator, environment in ALLOCATORS.items():
        print(f"allocator {allocator}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", file=sys.stderr)
        command = [sys.executable, "-m", "experiments.benchmark", *sys.argv[1:], "--in-this-process"]
        answer = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True)
        rows += [row | {"allocator": allocator} for row in json.loads(answer.stdout)]
    title = f"n = m = {arguments.positions}"
    table = Table("function", "allocator", "ms, n", "ms, 2n", "growth", "page faults, n", "2n", title=title)
    for row in rows:
        milliseconds = (f"{1e3 * seconds:.1f}" for seconds in row["seconds"])
        faults = (f"{faults:,.0f}" for faults in row["faults"])
        table.add_row(row["case"], row["allocator"], *milliseconds, f"{row['growth']:.2f}x", *faults)
    Console(width=None if os.isatty(1) else 140).print(table)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "growth.json"
    path.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"wrote {path}")


def _measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    sizes = arguments.positions, 2 * arguments.positions
    rng = np.random.default_rng(0)
    programs = {}
    for function in arguments.functions:
        for direction in op.DIRECTIONS:
            step = op.jax_program(getattr(nonlocal_op, function), direction)
            for n in sizes:
                shapes = op.shapes(function, 1, n, n, arguments.channels)
                arrays = [jnp.asarray(0.25 * rng.normal(size=shape), jnp.float32) for shape in shapes]
                programs[f"{function} {direction}", n] = (step, arrays)
    seconds, faults = ({key: [] for key in programs} for _ in range(2))
    for turn in range(arguments.repeats + 2):  # the first two turns compile and warm up
        for key, (step, arrays) in programs.items():
            start, before = time.perf_counter(), _page_faults()
            jax.block_until_ready(step(*arrays))
            if turn > 1:
                seconds[key].append(time.perf_counter() - start)
                faults[key].append(_page_faults() - before)
    rows = []
    for case in dict.fromkeys(case for case, _ in programs):
        medians = [statistics.median(seconds[case, n]) for n in sizes]
        row = {"case": case, "seconds": medians, "growth": medians[1] / medians[0]}
        rows.append(row | {"faults": [statistics.median(faults[case, n]) for n in sizes]})
    return rows


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
