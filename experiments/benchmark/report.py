"""Writes measurements as a table, a JSON file and a picture."""

import dataclasses
import json
import os
import platform
from pathlib import Path

import jax
import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Table

from experiments.benchmark.measure import Measurement


def show(measurements: list[Measurement]) -> None:
    """Prints the measurements as a table."""
    table = Table("case", "positions", "program", "ms", "ours is faster", "peak MB", "GFLOP/s", "of a matrix product")
    last = None
    for m in measurements:
        if last not in (None, (m.case, m.positions)):
            table.add_section()
        last = (m.case, m.positions)
        ratio = "" if m.program == "ours" else f"{m.ratio:.2f}x"
        memory = "?" if m.peak_bytes is None else f"{m.peak_bytes / 1e6:,.0f}"
        table.add_row(
            *(m.case, str(m.positions), m.program, f"{1e3 * m.seconds:,.1f}", ratio, memory),
            *(f"{m.gflops:,.0f}", f"{m.of_peak:.0%}"),
        )
    Console(width=None if os.isatty(1) else 140).print(table)


def write(measurements: list[Measurement], subject: str, out: Path) -> None:
    """Writes `subject`.json and `subject`.png to the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "jax": jax.__version__}
    content = {"machine": machine, "measurements": [dataclasses.asdict(m) for m in measurements]}
    (out / f"{subject}.json").write_text(json.dumps(content, indent=1) + "\n")

    cases = list(dict.fromkeys(m.case for m in measurements))
    figure, all_axes = plt.subplots(1, len(cases), figsize=(4 * len(cases), 3.5), squeeze=False, layout="constrained")
    for case, axes in zip(cases, all_axes[0], strict=True):
        of_case = [m for m in measurements if m.case == case]
        for program in dict.fromkeys(m.program for m in of_case):
            points = sorted((m.positions, 1e3 * m.seconds) for m in of_case if m.program == program)
            axes.loglog(*zip(*points, strict=True), marker="o", label=program)
        axes.set(title=case, xlabel="positions", ylabel="ms")
        axes.legend(fontsize="small")
    figure.savefig(out / f"{subject}.png", dpi=120)
    plt.close(figure)
    print(f"wrote {out / subject}.json and .png")
