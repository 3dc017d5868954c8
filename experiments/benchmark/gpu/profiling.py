"""Profiles a training step: the kernels of a few steps with their time, and the compiled program."""

import collections
import gzip
import tempfile
from pathlib import Path

import jax

from experiments.benchmark.gpu.record import Record

STEPS = 3
SHOWN = 40  # number of kernels in the text


def profile(record: Record, what: str, run, program: str | None = None) -> None:
    """Traces STEPS steps of `run`, and lists the kernels by their time in one step.

    Args:
      record: where the results are written.
      what: name of the program.
      run: a function of the number of steps to run.
      program: the optimised HLO of the step, which holds the instruction of every kernel. It is written next to the
        results.
    """
    slug = what.replace(" ", "_").replace(",", "")
    if program:
        with gzip.open(record.out / f"{slug}.hlo.txt.gz", "wt") as file:
            file.write(program)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            run(STEPS)
        (space,) = Path(folder).rglob("*.xplane.pb")
        if program:
            with gzip.open(record.out / f"{slug}.xplane.pb.gz", "wb") as file:
                file.write(space.read_bytes())
        kernels, names = _kernels(jax.profiler.ProfileData.from_file(str(space)))
    rows = sorted(((sum(times), len(times), key) for key, times in kernels.items()), reverse=True)
    with gzip.open(record.out / f"{slug}.kernels.tsv.gz", "wt") as file:
        file.writelines(f"{total:.1f}\t{count}\t{names[key]}\t{key}\n" for total, count, key in rows)
    total = sum(row[0] for row in rows)
    record.add(f"{what}: {total / STEPS / 1e6:.2f} ms of kernels a step", what=what, kernels_ms=total / STEPS / 1e6)
    for nanoseconds, count, key in rows[:SHOWN]:
        record.note(f"{nanoseconds / STEPS / 1e3:9.1f} us {count / STEPS:6.1f} x {key}: {names[key][:90]}")


def _kernels(data) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Returns the nanoseconds of every run of an instruction, and the names of the kernels."""
    planes = [plane for plane in data.planes if plane.name.startswith("/device:")] or list(data.planes)
    lines = [line for plane in planes for line in plane.lines]
    lines = [line for line in lines if line.name.startswith("Stream")] or lines
    kernels, names = collections.defaultdict(list), {}
    for line in lines:
        for event in line.events:
            key = dict(event.stats).get("hlo_op") or event.name
            kernels[str(key)].append(event.duration_ns)
            names[str(key)] = event.name
    return kernels, names
