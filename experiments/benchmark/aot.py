"""Compiles programs for a TPU without a TPU, and prints their memory and the bytes that they move, per chip."""

import os
import sys

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec
from rich.console import Console
from rich.table import Table

from nl_jax.errors import InputError
from nl_jax.ops import devices
from nl_jax.training.sharding import make_mesh


def compile_and_show(programs, topology: str) -> list[dict[str, object]]:
    """Compiles every program for one chip of `topology`, e.g. "v5e:2x2", and prints a table.

    Args:
      programs: {case: (ours, naive, shapes)} of jitted functions of float32 arrays, or {case: (ours, naive)} of
        functions that lower a program for a mesh.
      topology: kind and shape of a TPU slice.

    Raises:
      InputError: libtpu is not installed, or does not know the topology.
    """
    # Without this, libtpu waits for the metadata server of the cloud.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is used, so no chip needs a lock
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:  # libtpu, or its absence, may raise any type
        raise InputError(f'--topology={topology}: {error}; --aot needs libtpu, pip install -e ".[tpu]"') from error
    # One chip is enough: the memory for one chip's part of the batch does not depend on the number of chips.
    mesh = make_mesh(data=1, fsdp=1, devices=description.devices[:1])

    rows = []
    table = Table("case", "program", "arguments MB", "temporary MB", "MB moved, loops counted once")
    for case, (ours, naive, *shapes) in programs.items():
        for name, program in (("ours", ours), ("naive", naive)):
            row = {"case": case, "program": name}
            print(f"compiling {case}, {name}", file=sys.stderr)
            try:
                with devices.compiling_for("tpu", 1):
                    lowered = _lower(program, shapes[0], mesh) if shapes else program(mesh)
                compiled = lowered.compile()
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                row["error"] = str(error).split(". ")[0]
                table.add_row(case, name, "", f"does not fit: {row['error']}", "")
            else:
                memory = compiled.memory_analysis()
                row["arguments"], row["temporary"] = memory.argument_size_in_bytes, memory.temp_size_in_bytes
                row["moved"] = compiled.cost_analysis()["bytes accessed"]
                table.add_row(case, name, *(f"{row[key] / 1e6:,.0f}" for key in ("arguments", "temporary", "moved")))
            rows.append(row)
            print(row, file=sys.stderr)
    Console(width=None if os.isatty(1) else 140).print(table)
    return rows


def _lower(program, shapes, mesh):
    place = NamedSharding(mesh, PartitionSpec())
    return program.lower(*(jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place) for shape in shapes))
