"""Tests a trained network on every example of a split. Flags change the test settings of its config.

python -m experiments.evaluate --workdir=runs/quickstart
python -m experiments.evaluate --workdir=runs/folder --data=VIDEOS --num_clips=10 --num_crops=3
python -m experiments.evaluate --workdir=runs/long --mesh=time=4 --batch_size=8
python -m experiments.evaluate --model=i3d_nln_r50_8x8 --data=VIDEOS --out=DIR
"""

import jax
from absl import flags
from rich.progress import Progress

from experiments import command_line, processes
from nl_jax.errors import Preempted
from nl_jax.models import flat
from nl_jax.places import Place, make_directory, place
from nl_jax.tasks import TASKS, task_of
from nl_jax.training import sharding, workdir
from nl_jax.training.evaluator import Evaluator
from nl_jax.training.processes.preemption import Preemption
from nl_jax.training.processes.watchdog import Watchdog, notes_of_run, say_here
from nl_jax.training.task import SPLITS, Task
from nl_jax.zoo.pretrained import Pretrained, pretrained

WORKDIR = flags.DEFINE_string("workdir", None, "workdir of the run to test")
MODEL = flags.DEFINE_string(
    "model", None, "published network to test instead of a run: a name of nl_jax.zoo; needs --data and --out"
)
SPLIT = flags.DEFINE_enum("split", "test", SPLITS, "split of the run's own data to test on")
DATA = flags.DEFINE_string(
    "data",
    None,
    "data to test on instead of the split, in a form that config.data.test takes: a folder, a CSV file, DIR:SPLIT",
)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "videos or images in a batch, over all devices; by default config.eval_batch_size"
)
MESH = flags.DEFINE_string(
    "mesh", "", "sizes of the axes of the device mesh, such as time=4; by default all devices split the batch"
)
CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "newest", ("newest", "best"), "checkpoint of the run: the newest, or the best on the validation split"
)
OUT = flags.DEFINE_string("out", None, "directory for the results; by default WORKDIR/evaluate")
flags.adopt_module_key_flags(processes)  # --help lists its flags


def _define_options() -> dict[str, flags.FlagHolder]:
    """Defines one flag for each field of config.data that a task allows a test to change."""
    found = {}
    for task in TASKS.values():
        for name, (kind, text) in task.test_options.items():
            text = f"{text}; by default as in the config"
            if name in found:  # several tasks have this field
                continue
            if kind is int:
                found[name] = flags.DEFINE_integer(name, None, text)
            else:
                found[name] = flags.DEFINE_enum(name, None, kind, text)
    return found


OPTIONS = _define_options()


def main() -> None:
    processes.join()
    if (WORKDIR.value is None) == (MODEL.value is None):
        command_line.fail("give either --workdir or --model, the network to test", 2)
    published = _published() if MODEL.value is not None else None
    directory = place("--out", OUT.value) if published else place("--workdir", WORKDIR.value)
    task = _task(published, directory)
    # The run may have used other devices than this machine has.
    axes = command_line.mesh_axes(MESH.value) if MESH.value else {}
    mesh = sharding.make_mesh(**{"data": -1, "fsdp": 1} | axes)
    sharding.check_batch("batch_size", task.config.eval_batch_size, mesh)
    dataset = task.open_split(SPLIT.value, published.classes if published else workdir.read_classes(directory))
    task.check_test(mesh, dataset)
    if published:
        graphdef, *arrays = flat.split(published.model)
        arrays = jax.device_put(arrays, sharding.state_shardings(mesh, arrays))
    else:
        graphdef, *arrays = workdir.restore_arrays(directory, task, mesh, best=CHECKPOINT.value == "best")

    waits = {"warn_after": task.config.input_warning, "end_after": task.config.input_timeout}
    preemption = Preemption()
    watchdog = Watchdog(say_here, **waits, notes=notes_of_run(), asked=preemption.heard)
    try:
        with preemption, watchdog, Progress(disable=jax.process_index() != 0) as progress:
            if jax.process_index() == 0:
                print(f"testing {len(dataset)} {task.example}s on {mesh.size} device(s)", flush=True)
            evaluator = Evaluator(
                graphdef,
                task.forward(dataset),
                mesh,
                watch=lambda batches, what: preemption.over(watchdog.over(batches, what)),
                waiting=watchdog.waiting_for,
                progress=progress,
            )
            evaluation = evaluator(task, *arrays, dataset)
    except Preempted:
        raise Preempted(
            f"asked to stop: nothing is written; the same command tests again from the first {task.example}"
        ) from None
    if jax.process_index() == 0:
        _write(directory, task, dataset, evaluation)


def _published() -> Pretrained:
    if DATA.value is None or OUT.value is None:
        command_line.fail("--model: a published network has no data and no workdir; give --data and --out", 2)
    command_line.refuse_flags("split", "checkpoint", why="with --model, which has no run")
    found = pretrained(MODEL.value)
    if not found.classes:
        command_line.fail(
            f"--model={MODEL.value}: the network has no classifier; only a run can start from it (config.start.model)",
            2,
        )
    return found


def _task(published: Pretrained | None, directory: Place) -> Task:
    """Returns the task of the network, with the changes of the flags to its config."""
    config = (published.config if published else workdir.read_config(directory)).unlock()
    for name, option in OPTIONS.items():
        if option.value is not None:
            if name not in config.data:
                others = [f"--{other}" for other in OPTIONS if other in config.data]
                valid = f"valid: {', '.join(others)}" if others else "leave out the flag"
                command_line.fail(f"--{name}: data.name={config.data.name!r} has no field {name}; {valid}", 2)
            config.data[name] = option.value
    if DATA.value is not None:
        if SPLIT.value not in config.data:
            command_line.fail(
                f"--data: data.name={config.data.name!r} of {WORKDIR.value} is not read from files; leave out --data", 2
            )
        config.data[SPLIT.value] = DATA.value
        if published:  # the user may not have the training videos
            config.data.train = DATA.value
    if BATCH_SIZE.value is not None:
        config.eval_batch_size = BATCH_SIZE.value
    return task_of(config)


def _write(directory: Place, task: Task, dataset, evaluation) -> None:
    """Writes the results and prints them."""
    bad = evaluation.failed.nonzero()[0].tolist()
    results = task.results(evaluation, dataset, DATA.value or task.measured_on(SPLIT.value))
    results[f"undecodable_{task.example}s"] = [dataset.names[index] for index in bad]
    out = place("--out", OUT.value) if OUT.value else directory / "evaluate"
    make_directory(out)
    path = evaluation.save(out, dataset)
    workdir.write_json(out / "results.json", results)
    for index in bad:
        print(f"cannot be decoded: {dataset.names[index]}: {dataset.failure_reason(index)}")
    print(task.describe(results))
    print(f"the output for every {task.example}: {path}")


if __name__ == "__main__":
    command_line.run(main)
