"""Checks all forms and some training steps on one NVIDIA GPU, and compares their speed with PyTorch, within minutes.

The program needs only JAX, Flax, Optax, jaxtyping and PyTorch. It writes each result at once to `gpu.jsonl` and
`gpu.txt`. If a run ends early, run it again with the same `--out` and with `--sections` for the missing sections.
"""

import argparse
import os

SECTIONS = (
    *("machine", "forms", "steps", "smoke", "operations", "networks", "further_operations", "memory", "convolutions"),
    *("chunks", "profile"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sections", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections to run, in order; by default all"
    )
    parser.add_argument(
        "--seconds", type=float, default=480, help="maximum seconds of the whole run; by default %(default)s"
    )
    parser.add_argument(
        "--only", default="", help="regular expression: run only the forms and operations whose name it matches"
    )
    parser.add_argument(
        "--small", action="store_true", help="use small sizes, with which a CPU needs a minute, to try the command"
    )


def run(arguments: argparse.Namespace) -> None:
    # PyTorch and JAX share the memory of the GPU, so JAX must not reserve three quarters of it at the start.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from experiments.benchmark.gpu import sections

    sections.run(arguments)
