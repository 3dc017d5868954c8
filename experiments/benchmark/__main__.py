"""Speed and memory of what is here against PyTorch, in one run, in turns.

python -m experiments.benchmark op --positions 12544
python -m experiments.benchmark train_step
python -m experiments.benchmark train_step --aot tpu --frames 128 --depth 101 --geometry paper --norm frozen
"""

import argparse
import json
from pathlib import Path

from experiments import command_line
from experiments.benchmark import aot, block, detection, growth, loop, network, op, report
from experiments.benchmark import input as input_speed
from nl_jax.errors import InputError

# Subject to the module that measures it: add_arguments(parser), run(arguments) and, for --aot, programs(arguments).
# run returns measurements to show, or has shown its own.
SUBJECTS = {
    **{"op": op, "block": block, "network": network, "train_step": network, "evaluate": network},
    **{"growth": growth, "input": input_speed, "loop": loop, "detection": detection},
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="experiments.benchmark", description=__doc__.splitlines()[0])
    subparsers = parser.add_subparsers(dest="subject", required=True)
    for subject, module in SUBJECTS.items():
        subparser = subparsers.add_parser(subject, help=module.__doc__, description=module.__doc__)
        module.add_arguments(subparser)
        subparser.add_argument("--repeats", type=int, default=5, help="the median is taken over")
        subparser.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="folder of the JSON and PNG")
        if hasattr(module, "programs"):
            subparser.add_argument("--aot", choices=("tpu",), help="compile for it instead of running here")
            subparser.add_argument("--topology", default="v5e:2x2", help="of --aot")
    arguments = parser.parse_args(argv)
    module = SUBJECTS[arguments.subject]
    try:
        if getattr(arguments, "aot", None):
            rows = aot.compile_and_show(module.programs(arguments), arguments.topology)
            arguments.out.mkdir(parents=True, exist_ok=True)
            (arguments.out / f"{arguments.subject}_{arguments.aot}.json").write_text(json.dumps(rows, indent=1) + "\n")
            return
        measurements = module.run(arguments)
    except ModuleNotFoundError as error:
        command_line.fail(f"{error}; the benchmark needs: pip install -e .[benchmark]", 2)
    except InputError as error:
        command_line.fail(error, 2)
    if measurements is None:
        return
    report.show(measurements)
    report.write(measurements, arguments.subject, arguments.out)


if __name__ == "__main__":
    main()
