"""Checks and speed on one NVIDIA GPU, within minutes: every form, training steps, and PyTorch in turns.

Needs JAX, Flax, Optax, jaxtyping and PyTorch, no more. Results are written as they come: `gpu.jsonl` and `gpu.txt`.
"""

import argparse
import os

SECTIONS = (
    *("machine", "forms", "steps", "smoke", "operations", "networks", "further_operations", "memory", "convolutions"),
    *("chunks", "profile"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS, help="the ones to run, in order")
    parser.add_argument("--seconds", type=float, default=480, help="that the whole run may take")
    parser.add_argument("--only", default="", help="of forms and operations: those whose name has this pattern")
    parser.add_argument("--small", action="store_true", help="sizes that a CPU runs in a minute, to try the command")


def run(arguments: argparse.Namespace) -> None:
    # PyTorch and JAX share the memory: JAX must not take three quarters of it when it starts.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from experiments.benchmark.gpu import sections

    sections.run(arguments)
