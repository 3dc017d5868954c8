"""One training run as an object, with one method for each action of the loop."""

import itertools
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from functools import partial

import jax
import numpy as np
from flax import nnx
from rich.console import Console

from nl_jax.data.dataset import Batch, Dataset
from nl_jax.errors import Preempted
from nl_jax.models import flat
from nl_jax.places import Place, remove
from nl_jax.training import sharding, workdir
from nl_jax.training.checkpoint import UNVALIDATED, Checkpoints, newest_of
from nl_jax.training.chips import peak_flops
from nl_jax.training.evaluator import Evaluator
from nl_jax.training.faults import BadExamples, NonFinite
from nl_jax.training.logs import MetricsLog, make_progress, rate_of, show_step
from nl_jax.training.optimizer import make_schedule
from nl_jax.training.precise_bn import has_running_statistics, make_moments, precise_batch_stats
from nl_jax.training.processes.preemption import Preemption
from nl_jax.training.processes.watchdog import Watchdog, notes_of_run, say_here
from nl_jax.training.setup import Setup
from nl_jax.training.start import Start, check_blocks_can_learn, take_over
from nl_jax.training.step import create_state, make_train_step
from nl_jax.training.task import Evaluation, Results, Task, TrainBatches
from nl_jax.training.times import Profile, Times

Row = dict[str, float]


class Run:
    """A run of a task in a workdir. The loop takes its steps inside its context.

    Args:
      task: the task, with its config.
      directory: the workdir.
      setup: the result of `check_run` for this task and workdir.
      console: informs the user.
      profile_steps: the first step to trace into `directory`/profile, and the step after the last.

    Attributes:
      step: number of finished steps.
      owed: the row of this step if the run was asked to stop during the validation of the step, else None.
    """

    def __init__(
        self,
        task: Task,
        directory: Place,
        setup: Setup,
        console: Console,
        profile_steps: tuple[int, int] | None = None,
    ):
        config = task.config
        self.task, self.config, self.directory, self.setup = task, config, directory, setup
        self.is_main, self.say = jax.process_index() == 0, console.print
        build, example = partial(task.build, len(setup.train_set.classes)), task.example_shapes(setup.train_set)
        schedule = make_schedule(config.optimizer, config.steps)
        optimizer = task.optimizer(schedule)
        self._graphdef, *arrays = flat.abstract(lambda: build(nnx.Rngs(0)))
        self._model = flat.merge(self._graphdef, *arrays)  # holds shapes
        self._state = create_state(build, optimizer, setup.mesh, config.seed)
        self._batches = self._train_batches(config.seed, config.batch_size, config.accumulate_steps)
        self._train_step = make_train_step(
            self._graphdef,
            task.loss,
            optimizer,
            schedule,
            setup.mesh,
            self._state,
            config.accumulate_steps,
            skip_nonfinite=config.skip_nonfinite > 0,
            compiler_options=task.compiler_options(example),
        )
        forward = task.forward(setup.train_set)
        self._moments = make_moments(self._graphdef, forward, setup.mesh)
        self._key, self._precise_seed = _other_seeds(config.seed)
        self._preemption, self._progress = Preemption(), make_progress(console)
        say = self.say if jax.process_count() == 1 else say_here  # with several processes each one prints
        waits = {"warn_after": config.input_warning, "end_after": config.input_timeout}
        self._watchdog = Watchdog(say, **waits, notes=notes_of_run(), asked=self._preemption.heard)
        looks = {"watch": self._watched, "waiting": self._watchdog.waiting_for, "progress": self._progress}
        self._evaluator = Evaluator(self._graphdef, forward, setup.mesh, **looks)
        self._checkpoints = Checkpoints(directory, keep=config.keep_checkpoints, keep_every=config.keep_every)
        rows = sharding.local_rows(setup.mesh, config.batch_size, config.accumulate_steps)
        self._bad = BadExamples(directory, setup.train_set, task.example, config.max_bad_videos, rows)
        process = jax.process_index() if jax.process_count() > 1 else None
        self._nonfinite = NonFinite(directory, setup.train_set, task.example, config.skip_nonfinite, process)
        self._profile, self._times = Profile(directory / "profile", profile_steps), Times()
        self.step, self.owed = 0, None
        self._metrics, self._indices = [], []  # of the steps since the last row
        self._log, self._contexts, self._bar, self._place = None, ExitStack(), None, None
        self._began = self._row_began = None

    # ---------------------------------------------------------------------------------------------------- start and end

    def resume_or_start(self, start: Start | None) -> None:
        """Continues from the newest checkpoint, or begins with the network of `start` or with a new network."""
        newest = newest_of(self.directory, self._checkpoints)
        if newest is not None:
            self._state, data_state = newest.restore(self._state)
            self._batches.set_state(data_state)
            self._nonfinite.skipped = data_state.get("skipped_steps", 0)
            self.owed = data_state.get("row")
            self.say(f"resumed at step {int(self._state.step)}")
        elif start is not None:
            classes = self.setup.train_set.classes
            self._state, report = take_over(self._state, start, self.task, classes, self.setup.mesh)
            self.say(f"started from {start.directory}: {report}")
        self.step = int(self._state.step)
        if self.step == 0:
            check_blocks_can_learn(self._model, self._state.params)

    def __enter__(self) -> "Run":
        self._log = MetricsLog(self.directory, self.step - bool(self.owed), self.task, enabled=self.is_main)
        self._first_step, self._began = self.step, time.monotonic()
        with ExitStack() as stack:
            for context in (self._preemption, self._watchdog, self._checkpoints, closing(self._batches)):
                stack.enter_context(context)
            for context in (closing(self._profile), self._log, self._progress):
                stack.enter_context(context)
            self._bar = self._progress.add_task("training", total=self.config.steps, completed=self.step, status="")
            self._contexts = stack.pop_all()
        return self

    def __exit__(self, *error) -> bool | None:
        """Closes the log, waits for the last checkpoint to be whole, and restores the handling of signals."""
        with self._watchdog.waiting_for("the last checkpoint to be whole"):
            return self._contexts.__exit__(*error)

    # --------------------------------------------------------------------------------------------------------- stepping

    def read(self) -> Batch:
        """Returns the next batch. A request to stop ends the wait with Preempted, because the batch may never come."""
        if self._row_began is None:
            self._row_began = time.monotonic()
        self._profile.before(self.step)
        self._place = self._batches.get_state()  # a signal can come when a batch is counted but not here yet
        try:
            waiting = self._watchdog.waiting_for(f"batch {self.step}")
            with self._times.of("input"), waiting, self._preemption.interrupting():
                batch = next(self._batches)
        except Preempted:
            if self._metrics:
                self.log(self.take_row(), None)
            self.save(None)
            self.end()
        self._place = None
        self._tell_bad(self._bad.add(batch.pop("failed")))
        self._indices.append(batch.pop("index"))
        return batch

    def compute(self, batch: Batch) -> None:
        """Queues one step. The host reads its metrics when a row is due."""
        with self._times.of("compute"):
            batch = {name: batch[name] for name in self.setup.example}
            batch = sharding.put_batch(batch, self.setup.mesh, self.config.accumulate_steps)
            self._state, metrics = self._train_step(self._state, batch, self._key)
            self._metrics.append(metrics)
            # Each queued step holds its batch on the device. So only one step waits there while another is computed.
            with self._watchdog.waiting_for(f"step {self.step}"):
                jax.block_until_ready(self._metrics[-2:-1])
        self.step += 1
        self._profile.after(self.step, metrics)
        self._progress.advance(self._bar)

    def asked_to_end(self) -> bool:
        """Returns whether the run must save and end now. Every process asks after every step."""
        return self._preemption.asked()

    def take_row(self) -> Row:
        """Returns mean metrics and times of the steps since the last row, and checks that the metrics are finite."""
        config, count = self.config, len(self._metrics)
        with self._watchdog.waiting_for("the bad examples of all processes"):
            self._tell_bad(self._bad.exchange())
        with self._times.of("compute"), self._watchdog.waiting_for(f"step {self.step}"):
            fetched = jax.device_get(self._metrics)
        finite = self._nonfinite.finite(fetched, self._indices, self.step)
        names = {"loss": "train_loss"} | {name: f"train_{name}" for name in self.task.train_figures}
        names["grad_norm"] = "grad_norm"
        row = {
            new: float(np.mean([step[name] for step in finite])) if finite else np.nan for name, new in names.items()
        }
        row |= self._times.take(count)
        row["learning_rate"], row["skipped_steps"] = float(fetched[-1]["learning_rate"]), self._nonfinite.skipped
        rate = row[rate_of(self.task.unit)] = count * config.batch_size / (time.monotonic() - self._row_began)
        if peak := peak_flops(config.model.dtype):
            row["flops_utilisation"] = 6 * self.setup.summary.macs * rate / peak
        self._metrics, self._indices, self._row_began = [], [], None
        return row

    # -------------------------------------------------------------------------------------- validating, logging, saving

    def validate(self, row: Row) -> Results:
        """Returns the figures of the validation set. The state first gets the statistics of precise batch norm.

        Raises:
          Preempted: the run is asked to stop in the meantime. The state before the validation is saved, with `row`.
        """
        before = self._state
        try:
            if has_running_statistics(self._model):
                self._state = before.replace(batch_stats=self._precise_batch_stats())
            return self._evaluate(self.setup.validation_set, "validating").metrics()
        except Preempted:
            self._state = before
            with Checkpoints(self.directory / UNVALIDATED, keep=1) as unvalidated:
                unvalidated.save(self._state, self._data_state() | {"row": row})
            saved = f"saved at step {self.step}, before its validation"
            raise Preempted(f"asked to stop: {saved}; the same command continues from there") from None

    def log(self, row: Row, validation: Results | None) -> None:
        """Writes a row of metrics.csv and shows it to the user."""
        figures = validation or {}
        row |= {f"validation_{name}": figures[name] for name in figures if name in self.task.validation_figures}
        self._log.write(self.step, row)
        done = self.step - self._first_step
        seconds = time.monotonic() - self._began
        left = seconds / done * (self.config.steps - self.step) / 60 if done else None
        show_step(self._progress, self._bar, self.task, self.step, row, left)
        self._checkpoints.check()

    def save(self, validation: Results | None) -> None:
        """Saves a checkpoint in the background. Only a validated state can become the best checkpoint."""
        figures = validation or {}
        figure = next(((name, figures[name]) for name in self.task.best if name in figures), None)
        with self._times.of("checkpoint"), self._watchdog.waiting_for(f"the checkpoint of step {self.step}"):
            self._checkpoints.save(self._state, self._data_state(), figure)

    def end(self) -> None:
        """Raises Preempted as soon as the last checkpoint is whole."""
        with self._watchdog.waiting_for(f"the checkpoint of step {self.step}"):
            self._checkpoints.wait()
        raise Preempted(f"asked to stop: saved at step {self.step}; the same command continues from there")

    def test(self) -> Results:
        """Tests the network. Writes, shows and returns the final figures. Raises Preempted if asked to stop."""
        try:
            with self._preemption, self._watchdog, self._progress:
                evaluation = self._evaluate(self.setup.test_set, "testing")
        except Preempted:
            raise Preempted(f"asked to stop: step {self.step} is saved; the same command tests it") from None
        results = self.task.results(evaluation, self.setup.test_set, self.task.measured_on("test"))
        results |= {
            "steps": self.step,
            "parameters": self.setup.summary.parameters,
            "macs": self.setup.summary.macs,
            f"bad_training_{self.task.example}s": len(self._bad.indices),
        }
        if self.is_main:
            remove(self.directory / UNVALIDATED)
            evaluation.save(self.directory, self.setup.test_set)
            workdir.write_json(self.directory / "results.json", results)
        self.say(self.task.describe(results))
        return results

    # -------------------------------------------------------------------------------------------------------- its parts

    def _train_batches(self, seed: int, batch_size: int, parts: int = 1) -> TrainBatches:
        rows = sharding.local_rows(self.setup.mesh, batch_size, parts)
        return self.task.train_batches(self.setup.train_set, batch_size=batch_size, seed=seed, rows=rows)

    def _precise_batch_stats(self) -> flat.FlatParams:
        parts = self.config.accumulate_steps
        with closing(self._train_batches(self._precise_seed, self.config.batch_size // parts)) as batches:
            watched = self._watched(batches, "batch for precise batch norm")
            watched = itertools.islice(watched, self.config.precise_bn_batches * parts)
            inputs = (
                sharding.put_batch({name: batch[name] for name in self.task.inputs}, self.setup.mesh)
                for batch in watched
            )
            return precise_batch_stats(self._moments, self._state.tested_params(), self._state.batch_stats, inputs)

    def _evaluate(self, dataset: Dataset, title: str) -> Evaluation:
        found = self._evaluator(self.task, self._state.tested_params(), self._state.batch_stats, dataset, title)
        for index in map(int, found.failed.nonzero()[0]):
            reason = dataset.failure_reason(index)
            self.say(f"cannot be decoded, counted as wrong: {dataset.names[index]}: {reason}")
        return found

    def _watched(self, batches: Iterable[Batch], what: str) -> Iterator[Batch]:
        return self._preemption.over(self._watchdog.over(batches, what))

    def _tell_bad(self, lines: list[str]) -> None:
        for line in lines:
            self.say(f"cannot be decoded, replaced by another: {line}")

    def _data_state(self) -> dict:
        return (self._place or self._batches.get_state()) | {"skipped_steps": self._nonfinite.skipped}


def _other_seeds(seed: int) -> tuple[jax.Array, int]:
    """Returns a key for the loss and a seed for precise batch norm. Both differ from `seed`, which training uses."""
    return jax.random.fold_in(jax.random.key(seed), 1), int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])
