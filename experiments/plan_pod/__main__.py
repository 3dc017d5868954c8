"""Compiles the training step for a pod on any machine, and predicts whether the step fits the pod, and its throughput.

python -m experiments.plan_pod --config=configs/kinetics.py --topology=v5e:4x4 --batch_per_chip=8
python -m experiments.plan_pod --config=configs/table3.py:nl_i3d_r101 --topology=v5e:16x16 --batch_per_chip=2
python -m experiments.plan_pod --config=configs/kinetics.py --topology=v6e:4x4 --search --mesh=fsdp=1 --mesh=fsdp=4
"""

import itertools
import json

from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments import command_line
from experiments.plan_pod import search, show
from experiments.plan_pod.plan import as_dict, find_pod, make_plan, without_accelerators
from nl_jax.errors import InputError
from nl_jax.places import place, write_text
from nl_jax.tasks import task_of
from nl_jax.training.task import Example, Task

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "the config (required): FILE.py, or FILE.py:ROW for one of its rows", lock_config=True
)
TOPOLOGY = flags.DEFINE_string(
    "topology",
    None,
    "the pod (required): kind and shape of a TPU slice, such as v5e:4x4, v6e:16x16 or v5p:2x2x2; or kind and number of "
    "GPUs, such as h200:8, h100:8, a100:8, or gpu:8 for another GPU",
)
PER_CHIP = flags.DEFINE_list(
    "batch_per_chip",
    None,
    "examples on a chip, instead of config.batch_size; with --search several numbers, separated by commas",
)
MESH = flags.DEFINE_multi_string(
    "mesh",
    [],
    "sizes of the axes of the device mesh, such as fsdp=4,time=2, instead of config.mesh; with --search several meshes",
)
REMAT = flags.DEFINE_list(
    "remat",
    None,
    "stages that the backward pass computes again, such as res2+res3, or none, instead of config.model.remat; with "
    "--search several values, separated by commas",
)
SEARCH = flags.DEFINE_bool(
    "search", False, "plan every combination of --mesh, --remat and --batch_per_chip, and print a table"
)
LARGEST = flags.DEFINE_bool(
    "largest", False, "compile with several batch sizes until the largest batch that fits is known; only for TPUs"
)
NUM_CLASSES = flags.DEFINE_integer(
    "num_classes", None, "number of classes; needed if the config does not give it and the data are not on this machine"
)
EFFICIENCY = flags.DEFINE_float(
    "efficiency", 0.4, "fraction of the published peaks that the step is assumed to reach", 0.01, 1.0
)
OUT = flags.DEFINE_string("out", None, "JSON file for all figures; by default no file")
flags.mark_flags_as_required(["config", "topology"])

SEARCHED_PER_CHIP = ("1", "2", "4", "8", "16", "32")
SEARCHED_REMAT = ("none", "res2", "res2+res3")


def main() -> None:
    without_accelerators()
    config = CONFIG.value.copy_and_resolve_references().unlock()
    pod = find_pod(TOPOLOGY.value)
    task = task_of(config)
    sizes = num_classes, example = _sizes(task)
    show.title(task.summary(num_classes, example), config, pod)
    settings = _settings(config)
    if LARGEST.value and SEARCH.value:
        raise InputError("--largest and --search are both given; choose one of them")
    if LARGEST.value and pod.platform == "gpu":
        raise InputError(
            f"--largest has to compile, and for {pod.name} the compiler needs the GPU: plan without --largest, and on "
            "the GPU train a few steps (--config.steps=3) with increasing --config.batch_size"
        )
    if SEARCH.value:
        plans = search.every(config, pod, sizes, settings)
        show.table(plans, pod, config.model.dtype, EFFICIENCY.value)
    elif len(settings) > 1:
        raise InputError("--batch_per_chip, --mesh and --remat: several values need --search")
    else:
        plans = [make_plan(search.changed(config, pod, settings[0]), pod, *sizes)]
        show.details(plans[0], pod, config.model.dtype, EFFICIENCY.value)
        if LARGEST.value:
            plans += search.largest(config, pod, sizes, settings[0], plans[0])
            show.largest(plans)
    if OUT.value:
        write_text(place("--out", OUT.value), json.dumps([as_dict(plan) for plan in plans], indent=1) + "\n")


def _sizes(task: Task) -> tuple[int, Example]:
    """Returns the number of classes and the shapes of a training example.

    If neither the flag nor the config gives the number of classes, the number comes from the training split.
    """
    if classes := NUM_CLASSES.value or task.config.num_classes:
        return classes, task.example_shapes()
    try:
        dataset = task.open_split("train")
    except InputError as error:
        raise InputError(
            f"--num_classes is not given, and the data do not give the number of classes: {error}"
        ) from error
    return len(dataset.classes), task.example_shapes()


def _settings(config: ConfigDict) -> list[search.Setting]:
    """Returns every combination of the values of --mesh, --remat and --batch_per_chip."""
    batch_per_chip = PER_CHIP.value or (SEARCHED_PER_CHIP if SEARCH.value else [])
    remat = REMAT.value or (SEARCHED_REMAT if SEARCH.value else [])
    if bad := [value for value in batch_per_chip if not value.isdigit() or not int(value)]:
        raise InputError(f"--batch_per_chip={bad[0]!r} is not a positive integer; give integers from 1")
    combinations = itertools.product(
        [command_line.mesh_axes(given) for given in MESH.value] or [None],
        [() if value == "none" else tuple(value.split("+")) for value in remat] or [None],
        sorted(int(value) for value in batch_per_chip) or [None],
    )
    return [search.Setting(*values) for values in combinations]


if __name__ == "__main__":
    command_line.run(main)
