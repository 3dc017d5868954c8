"""The protocol of a task, which is a kind of run. The loop, the checks and the programs ask it for all that differs.

A task is written in one file under `nl_jax/tasks` and chosen in `nl_jax/tasks/__init__.py`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Key
from ml_collections import ConfigDict

from nl_jax.data.dataset import Batch, Dataset
from nl_jax.figures.curves import Curves
from nl_jax.models.flat import FlatParams
from nl_jax.models.summary import Summary

SPLITS = ("train", "validation", "test")
# Shapes and types of the arrays of one example.
Example = dict[str, jax.ShapeDtypeStruct]
Metrics = dict[str, Float[Array, ""]]
Results = dict[str, float | int | str]
# From inputs to outputs of the network: one row for every example of the batch, on every process.
Forward = Callable[[Batch], Any]
# From the arrays of this process's rows of a batch to the arrays of all rows, on every process.
Gather = Callable[[Batch], Batch]


@runtime_checkable
class TrainBatches(Protocol):
    """Endless batches that can continue from any place."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def close(self) -> None:
        """Ends the worker processes."""
        ...

    def get_state(self) -> dict[str, int]:
        """Returns the place in the batches, for a checkpoint."""
        ...

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to the place that `get_state` returned."""
        ...


@runtime_checkable
class Evaluation(Protocol):
    """The outputs of a network for every example of a dataset.

    Attributes:
      failed: which examples could not be decoded. They count as wrong.
    """

    failed: Bool[np.ndarray, "n"]

    def metrics(self) -> Results:
        """Returns the figures, the number of examples and the hash of their list."""
        ...

    def save(self, directory: Path, dataset: Dataset) -> Path:
        """Writes the results of every example, and returns the file."""
        ...


@runtime_checkable
class Task(Protocol):
    """One kind of run, for one config.

    Attributes:
      config: the config of the run, as under `configs`.
      unit: name of one item of a batch: "clip".
      example: name of one item of a dataset: "video".
      inputs: the arrays of a batch that the network reads in testing. The other arrays are for the loss.
      train_figures: from the name of every metric of `loss` to its words beside the progress bar, a format string of
        its mean such as "top-1 {:.1%}". "" is for a metric that is only logged. `validation_figures` has the same for
        the figures of a validation. Both decide the columns of metrics.csv.
      result_figures: from figures of results.json that are shares to their words in the report.
      best: names of figures. The best checkpoint has the highest value of the first one that a validation has.
      curves: the curves of curves.png and of the report.
      validated_on: "validation", or the data used in its place, for example "the training videos".
      paper: format string of `config.paper`, the figures that the paper reports.
      by_class: prefixes of the names of parameters that depend on the classes. They are
        not taken over from a network with other classes.
      test_options: fields of `config.data` that are flags of `experiments.evaluate`: (int or the choices, help).
    """

    config: ConfigDict
    unit: str
    example: str
    inputs: tuple[str, ...]
    train_figures: Mapping[str, str]
    validation_figures: Mapping[str, str]
    result_figures: Mapping[str, str]
    best: tuple[str, ...]
    curves: Sequence[Curves]
    validated_on: str = "validation"
    paper: str
    by_class: tuple[str, ...]
    test_options: Mapping[str, tuple[type | tuple[str, ...], str]]

    # ------------------------------------------------------------------------------------------------------- the config

    def check(self) -> None:
        """Raises InputError for a value of the config that is wrong for any data and any devices."""
        ...

    def check_mesh(self, mesh: Mesh, num_classes: int, example: Example) -> None:
        """Raises InputError if the mesh cannot divide a batch of examples of these shapes as the network needs."""
        ...

    def check_test(self, mesh: Mesh, dataset: Dataset) -> None:
        """Raises InputError if the mesh cannot divide the examples of a dataset in a test."""
        ...

    # --------------------------------------------------------------------------------------------------------- the data

    def open_split(self, split: str, classes: tuple[str, ...] | None = None) -> Dataset:
        """Opens a split of `config.data`, one of SPLITS. `classes` fixes the order of the labels."""
        ...

    def measured_on(self, split: str) -> str:
        """Returns, in words, the data on which a figure of this split is measured."""
        ...

    def notes(self, dataset: Dataset) -> Sequence[str]:
        """Returns notes for the user on the training data, for example on files left out. By default there are none."""
        return ()

    def describes(self, dataset: Dataset) -> Mapping[str, object]:
        """Returns {file name: content for JSON}: facts on the training data that a workdir keeps beside the classes."""
        return {}

    def train_batches(self, dataset: Dataset, *, batch_size: int, seed: int, rows: Sequence[int]) -> TrainBatches:
        """Returns this process's `rows` of every batch. Batch k depends only on the seed and on k."""
        ...

    def test_batches(self, dataset: Dataset, rows: Sequence[int]) -> Iterator[Batch]:
        """Yields this process's `rows` of batches of `config.eval_batch_size`, every example once and in order."""
        ...

    def example_shapes(self, dataset: Dataset | None = None) -> Example:
        """Returns the shapes of the arrays of one training example that `loss` needs, without batch axis.

        Raises:
          InputError: if the config does not give them and there is no dataset.
        """
        ...

    # ------------------------------------------------------------------------------------------------------ the network

    def build(self, num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
        """Builds a new network."""
        ...

    def summary(self, num_classes: int, example: Example) -> Summary:
        """Returns the layers of the network and its cost for one example.

        Raises:
          InputError: for a network that cannot be built, or that does not fit the example.
        """
        ...

    def optimizer(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Returns the optimizer with all settings that differ between parameters: decay, rates, frozen parameters."""
        ...

    def loss(self, model: nnx.Module, batch: dict[str, Array], key: Key[Array, ""]) -> tuple[Float[Array, ""], Metrics]:
        """Returns the loss of a batch (b,..) and the metrics of `train_figures`. `key` is for dropout and samples."""
        ...

    def compiler_options(self, example: Example) -> Mapping[str, object]:
        """Options of `jax.jit` for the training step on examples of these shapes; none by default."""
        return {}

    def forward(self, dataset: Dataset) -> Callable[[nnx.Module, dict[str, Array]], Any]:
        """Returns the function (model, inputs) -> outputs that tests a network on examples of this dataset."""
        ...

    def start_arrays(self, source: "Task", arrays: FlatParams) -> FlatParams:
        """Returns the arrays of another run's network under the names that they have in this run's network."""
        ...

    # ------------------------------------------------------------------------------------------------------ the figures

    def evaluate(self, dataset: Dataset, batches: Iterable[Batch], forward: Forward, gather: Gather) -> Evaluation:
        """Runs every example through the network.

        Args:
          dataset: the examples.
          batches: this process's batches of `test_batches`.
          forward: runs the network on a batch.
          gather: joins the rows of all processes.
        """
        ...

    def results(self, evaluation: Evaluation, dataset: Dataset, measured_on: str) -> Results:
        """Returns the content of results.json for a test."""
        ...

    def describe(self, results: Results) -> str:
        """Returns the results as sentences, with the data they were measured on."""
        ...
