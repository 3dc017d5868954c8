"""Checks every form and training steps on one NVIDIA GPU, and compares their speed with PyTorch, within minutes.

It only needs JAX, Flax, Optax, jaxtyping and PyTorch. It writes each result at once to `gpu.jsonl` and `gpu.txt`.
"""

import argparse
import os

SECTIONS = (
    *("machine", "forms", "steps", "smoke", "operations", "networks", "further_operations", "memory", "convolutions"),
    *("chunks", "profile"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections to run, in order")
    parser.add_argument("--seconds", type=float, default=480, help="maximum time of the whole run")
    parser.add_argument("--only", default="", help="run only forms and operations whose name matches this pattern")
    parser.add_argument("--small", action="store_true", help="sizes that a CPU runs in a minute, to try the command")


def run(arguments: argparse.Namespace) -> None:
    # PyTorch and JAX share the memory, so JAX must not take three quarters of it at the start.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from experiments.benchmark.gpu import sections

    sections.run(arguments)
