"""Runs a whole dataset through a network once, for a validation, a test or a prediction."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from rich.progress import Progress

from nl_jax.data.dataset import Batch, Dataset
from nl_jax.errors import InputError
from nl_jax.models.flat import FlatParams
from nl_jax.training import sharding
from nl_jax.training.step import make_forward
from nl_jax.training.task import Evaluation, Task


class Evaluator:
    """A network in evaluation mode on a mesh. It is compiled once for every shape of a batch.

    Args:
      graphdef: structure of the network.
      forward: the function (model, inputs) -> outputs (b,..), see `Task.forward`.
      mesh: the devices.
      watch: maps batches and their name to the same batches. It watches the wait for each batch.
      waiting: maps the name of a wait to a context manager. Inside it this process waits for the other processes.
      progress: shows the part of the dataset that is done. None shows nothing.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        forward: Callable[[nnx.Module, Batch], Any],
        mesh: Mesh,
        *,
        watch: Callable[[Iterable[Batch], str], Iterable[Batch]] = lambda batches, what: batches,
        waiting: Callable[[str], AbstractContextManager] = lambda what: nullcontext(),
        progress: Progress | None = None,
    ):
        self._waiting = waiting
        self._forward = make_forward(graphdef, forward, mesh)
        self._mesh, self._watch, self._progress = mesh, watch, progress
        self._running = None  # the outputs of the last call

    def outputs(self, params: FlatParams, batch_stats: FlatParams, inputs: Batch) -> Any:
        """Returns the outputs of all rows of a batch, on every process.

        Args:
          params: parameters by name.
          batch_stats: batch norm statistics by name.
          inputs: the arrays of this process's rows.
        """
        inputs = sharding.put_batch(inputs, self._mesh)
        jax.block_until_ready(self._running)  # one batch at a time: `precise_batch_stats` gives the reasons
        self._running = self._forward(params, batch_stats, inputs)
        if jax.process_count() > 1:
            with self._waiting("the scores of all processes"):
                jax.block_until_ready(self._running)
        return self._running

    def __call__(
        self, task: Task, params: FlatParams, batch_stats: FlatParams, dataset: Dataset, title: str = "testing"
    ) -> Evaluation:
        """Returns the evaluation of a dataset, after every example has run through the network.

        Args:
          task: decides the batches and the figures.
          params: parameters by name.
          batch_stats: batch norm statistics by name.
          dataset: the examples.
          title: name of this pass, for progress and messages.

        Raises:
          InputError: the dataset has no examples.
        """
        if not len(dataset):
            raise InputError(f"there are no {task.example}s to evaluate")
        batch_size = task.config.eval_batch_size
        rows = sharding.local_rows(self._mesh, batch_size)
        with closing(task.test_batches(dataset, rows)) as batches:
            watched = self._watch(batches, f"batch for {title}")
            return task.evaluate(
                dataset,
                self._shown(watched, title, len(dataset), batch_size / len(rows)),
                partial(self.outputs, params, batch_stats),
                partial(self._gather, rows=rows),
            )

    def _gather(self, arrays: Batch, rows: Sequence[int]) -> Batch:
        with self._waiting("the labels of all processes"):
            return gather_rows(arrays, rows)

    def _shown(self, batches: Iterable[Batch], title: str, total: int, of_all: float) -> Iterator[Batch]:
        """Yields the same batches and moves the bar. A batch is done when the caller asks for the next batch."""
        if self._progress is None:
            yield from batches
            return
        bar = self._progress.add_task(title, total=total, status="")
        done = 0.0
        for batch in batches:
            yield batch
            done += len(batch["index"]) * of_all
            self._progress.update(bar, completed=min(round(done), total))  # copies may fill up the last batch
        self._progress.remove_task(bar)


def gather_rows(arrays: Batch, rows: Sequence[int]) -> Batch:
    """Returns the arrays of all processes in the order of the rows. A row that several processes have appears once.

    Args:
      arrays: this process's arrays, with one entry for each of its rows.
      rows: the rows of a batch that this process has.
    """
    if jax.process_count() == 1:
        return arrays
    from jax.experimental import multihost_utils

    *of_all, rows = multihost_utils.process_allgather((*arrays.values(), np.asarray(rows)), tiled=True)
    _, first = np.unique(rows, return_index=True)
    return {name: array[first] for name, array in zip(arrays, of_all, strict=True)}
