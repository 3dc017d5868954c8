"""Carries out a training run from top to bottom: check, start or resume, train, test."""

from collections.abc import Callable

import jax

from nl_jax.places import Place, make_directory, write_text
from nl_jax.training import workdir
from nl_jax.training.logs import make_console
from nl_jax.training.optimizer import missed_decays
from nl_jax.training.processes.lock import only_run
from nl_jax.training.run import Run
from nl_jax.training.setup import Setup, check_run
from nl_jax.training.start import Start
from nl_jax.training.task import Results, Task


def train(
    task: Task, directory: Place, start: Start | None = None, profile_steps: tuple[int, int] | None = None
) -> Results:
    """Trains `task.config` in `directory`, or continues an earlier call, and returns the test metrics.

    `nl_jax.runs.stages.train` calls it with the task of a config.

    Args:
      task: the kind of run, with its config.
      directory: the workdir.
      start: the run whose network this run starts from. Its kernels are inflated in time if this network needs it.
      profile_steps: the first step to trace into `directory`/profile, and the step after the last.

    Raises:
      InputError: the config cannot be run.
      TrainingError: the loss is not finite, or a checkpoint cannot be saved.
      Preempted: the run was asked to stop by SIGTERM or Ctrl-C, and its state is saved.
    """
    console = make_console()
    say = console.print
    # -------------------------------------------------------------------------------------------------------- check
    setup = check_run(task, directory)
    make_directory(directory)
    with only_run(directory):
        workdir.check_workdir(directory, task, setup.train_set)  # another run may have started since `check_run`
        # ----------------------------------------------------------------------------------- start or resume, and claim
        run = Run(task, directory, setup, console, profile_steps)
        run.resume_or_start(start)
        if jax.process_index() == 0:
            workdir.claim_workdir(directory, task, setup.train_set)
            write_text(directory / "network.txt", f"{setup.summary}\n")
        _tell(task, directory, setup, say)
        return _train(run)


def _tell(task: Task, directory: Place, setup: Setup, say: Callable[[str], None]) -> None:
    """Tells the user the network, the data and the devices of the run."""
    config = task.config
    if ignored := setup.train_set.ignored:
        say(f"{len(ignored)} files under {config.data.train} are not {task.example}s: {', '.join(ignored[:10])}")
    for note in task.notes(setup.train_set):
        say(note)
    if missed := missed_decays(config.optimizer, config.steps):
        say(missed)
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    devices = f"{setup.mesh.size} device(s){processes}"
    say(f"{directory}: {config.steps} steps of {config.batch_size} {task.unit}s on {devices}")
    say(str(setup.summary))


def _train(run: Run) -> Results:
    config = run.config
    # ------------------------------------------------------------------------------------------------------- train
    with run:
        if run.owed:  # the run was asked to stop during the validation of this step
            validation = run.validate(run.owed)
            run.log(run.owed, validation)
            run.save(validation)
        while run.step < config.steps:
            batch = run.read()
            run.compute(batch)

            last = run.step == config.steps
            stop = run.asked_to_end() and not last
            validate = last or (config.eval_every and run.step % config.eval_every == 0)
            # A validated state is saved, so that the best checkpoint can be kept.
            save = stop or validate or run.step % config.checkpoint_every == 0
            if not (save or run.step % config.log_every == 0):
                continue
            row = run.take_row()
            validation = run.validate(row) if validate else None
            run.log(row, validation)
            if save:
                run.save(validation)
            if stop:
                run.end()

    # -------------------------------------------------------------------------------------------------------- test
    return run.test()
