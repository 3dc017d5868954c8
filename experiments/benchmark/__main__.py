"""Compares the speed and memory of nl_jax and PyTorch in one run. The programs take turns.

python -m experiments.benchmark op --positions 12544
python -m experiments.benchmark train_step
python -m experiments.benchmark train_step --aot tpu --frames 128 --depth 101 --geometry paper --norm frozen
python -m experiments.benchmark gpu --out=runs/gpu
"""

import argparse
import importlib
import json
import sys
from pathlib import Path

from nl_jax.errors import InputError
from nl_jax.places import check_local

# Maps a subject to its module. A module has add_arguments(parser), run(arguments) and, for --aot, programs(arguments).
# run returns the measurements, or it shows them itself and returns None. The program imports only the module of the
# chosen subject, so only the packages of this module must be installed.
SUBJECTS = {
    "op": "op",
    "block": "block",
    "network": "network",
    "train_step": "network",
    "evaluate": "network",
    "growth": "growth",
    "input": "input",
    "loop": "loop",
    "gpu": "gpu",
    "detection": "detection",
}


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("subject", choices=SUBJECTS, help="what to measure; SUBJECT --help lists its flags")
    subject = parser.parse_args(argv[:1]).subject
    try:
        module = importlib.import_module(f"experiments.benchmark.{SUBJECTS[subject]}")
        measurements = _run(subject, module, argv[1:])
    except ModuleNotFoundError as error:
        extra = "detection_benchmark" if subject == "detection" else "benchmark"
        _fail(f'{error}; the benchmark needs: pip install -e ".[{extra}]"')
    except InputError as error:
        _fail(error)
    if measurements is not None:
        from experiments.benchmark import report

        report.show(measurements)
        report.write(measurements, subject, _arguments(subject, module, argv[1:]).out)


def _arguments(subject, module, argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m experiments.benchmark {subject}", description=module.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    module.add_arguments(parser)
    parser.add_argument(
        "--repeats",
        type=int,
        default=5,
        help="number of times that each program runs; the result is the median; by default %(default)s",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/benchmark"), help="folder for the results; by default %(default)s"
    )
    if hasattr(module, "programs"):
        parser.add_argument("--aot", choices=("tpu",), help="compile for this platform, and do not run")
        parser.add_argument(
            "--topology", default="v5e:2x2", help="kind and shape of the TPU slice for --aot; by default %(default)s"
        )
    return parser.parse_args(argv, argparse.Namespace(subject=subject))


def _run(subject, module, argv):
    arguments = _arguments(subject, module, argv)
    check_local("--out", arguments.out)
    if not getattr(arguments, "aot", None):
        return module.run(arguments)
    from experiments.benchmark import aot

    rows = aot.compile_and_show(module.programs(arguments), arguments.topology)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{subject}_{arguments.aot}.json").write_text(json.dumps(rows, indent=1) + "\n")


def _fail(error: Exception | str) -> None:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
