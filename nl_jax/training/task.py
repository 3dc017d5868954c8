"""The protocol of a task. A task is one kind of run, such as classification or detection.

The training loop, the checks and the programs ask the task for everything that differs between kinds of runs. Each task
is one file under `nl_jax/tasks`, and `nl_jax/tasks/__init__.py` chooses the task of a config.
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
# Maps the inputs of a batch to the outputs of the network. Every process gets the outputs of all rows.
Forward = Callable[[Batch], Any]
# Maps the arrays of this process's rows of a batch to the arrays of all rows. Every process gets all rows.
Gather = Callable[[Batch], Batch]


@runtime_checkable
class TrainBatches(Protocol):
    """Endless training batches. The iteration can continue from any batch."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def close(self) -> None:
        """Ends the worker processes."""
        ...

    def get_state(self) -> dict[str, int]:
        """Returns the position in the batches, for a checkpoint."""
        ...

    def set_state(self, state: dict[str, int]) -> None:
        """Moves to the position that `get_state` returned."""
        ...


@runtime_checkable
class Evaluation(Protocol):
    """The outputs of a network for every example of a dataset.

    Attributes:
      failed: (n,), whether each example could not be decoded. A failed example counts as wrong.
    """

    failed: Bool[np.ndarray, "n"]

    def metrics(self) -> Results:
        """Returns the figures, the number of examples and the hash of their list."""
        ...

    def save(self, directory: Path, dataset: Dataset) -> Path:
        """Writes the result of every example to a file in `directory`, and returns the path of the file."""
        ...


@runtime_checkable
class Task(Protocol):
    """One kind of run, for one config.

    Attributes:
      config: the config of the run, as under `configs`.
      unit: name of one item of a batch: "clip".
      example: name of one item of a dataset: "video".
      inputs: the arrays of a batch that the network reads in testing. The other arrays are for the loss.
      train_figures: {metric of `loss`: format string}. The string shows the mean of the metric beside the progress bar,
        for example "top-1 {:.1%}". A metric with the string "" is only logged. Each metric is a column of metrics.csv.
      validation_figures: the same for the figures of a validation.
      result_figures: {figure of results.json: its words in the report}, for figures that are shares.
      best: names of figures, in order of preference. The first one that a validation has ranks the checkpoints. The
        best checkpoint has its highest value.
      curves: the curves of curves.png and of the report.
      validated_on: "validation", or the name of the data used in its place, for example "the training videos".
      paper: format string of `config.paper`, the figures that the paper reports.
      by_class: prefixes of the names of parameters that depend on the classes. A run does not take these parameters
        over from a network with other classes.
      test_options: {field of `config.data`: (int or the choices, help)}, for fields that are flags of
        `experiments.evaluate`.
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
        """Returns a split of `config.data`.

        Args:
          split: one of SPLITS.
          classes: class names in label order; None takes the order of the data.

        Raises:
          InputError: the split cannot be opened.
        """
        ...

    def measured_on(self, split: str) -> str:
        """Returns a phrase that names the data on which a figure of this split is measured."""
        ...

    def notes(self, dataset: Dataset) -> Sequence[str]:
        """Returns notes for the user on the training data, such as the files left out. By default there are none."""
        return ()

    def describes(self, dataset: Dataset) -> Mapping[str, object]:
        """Returns facts on the training data as {file name: content for JSON}. By default there are none.

        The workdir keeps these files beside the classes.
        """
        return {}

    def train_batches(self, dataset: Dataset, *, batch_size: int, seed: int, rows: Sequence[int]) -> TrainBatches:
        """Returns the training batches of this process. Batch k depends only on the seed and on k.

        Args:
          dataset: the training examples.
          batch_size: examples in a batch of all processes.
          seed: seed of the order and of all random choices.
          rows: the rows of every batch that this process makes.
        """
        ...

    def test_batches(self, dataset: Dataset, rows: Sequence[int]) -> Iterator[Batch]:
        """Yields batches of `config.eval_batch_size` examples. They hold every example once, in order.

        Args:
          dataset: the examples.
          rows: the rows of every batch that this process makes.
        """
        ...

    def example_shapes(self, dataset: Dataset | None = None) -> Example:
        """Returns the shapes of the arrays of one training example that `loss` needs, without the batch axis.

        Raises:
          InputError: the config does not determine the shapes, and there is no dataset.
        """
        ...

    # ------------------------------------------------------------------------------------------------------ the network

    def build(self, num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
        """Builds a new network."""
        ...

    def summary(self, num_classes: int, example: Example) -> Summary:
        """Returns the layers of the network and its cost for one example.

        Raises:
          InputError: the network cannot be built, or it does not fit the example.
        """
        ...

    def optimizer(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Returns the optimizer.

        Its weight decay, learning rate and frozen parameters can differ between parameters.

        Raises:
          InputError: a field of `config.optimizer` is not valid.
        """
        ...

    def loss(self, model: nnx.Module, batch: dict[str, Array], key: Key[Array, ""]) -> tuple[Float[Array, ""], Metrics]:
        """Returns the loss of a batch and the metrics of `train_figures`.

        Args:
          model: the network, in training mode.
          batch: arrays (b,..).
          key: random key of dropout and of sampling.
        """
        ...

    def compiler_options(self, example: Example) -> Mapping[str, object]:
        """Returns the options of `jax.jit` for the training step on examples of these shapes.

        By default there are none.
        """
        return {}

    def forward(self, dataset: Dataset) -> Callable[[nnx.Module, dict[str, Array]], Any]:
        """Returns the function (model, inputs) -> outputs that runs a network on examples of this dataset in a test."""
        ...

    def start_arrays(self, source: "Task", arrays: FlatParams) -> FlatParams:
        """Returns the arrays of another run's network under the names of this run's network.

        Raises:
          InputError: this run cannot start from the other network.
        """
        ...

    # ------------------------------------------------------------------------------------------------------ the figures

    def evaluate(self, dataset: Dataset, batches: Iterable[Batch], forward: Forward, gather: Gather) -> Evaluation:
        """Returns the outputs of the network for every example.

        Args:
          dataset: the examples.
          batches: this process's batches of `test_batches`.
          forward: runs the network on a batch.
          gather: joins the rows of all processes.
        """
        ...

    def results(self, evaluation: Evaluation, dataset: Dataset, measured_on: str) -> Results:
        """Returns the content of results.json for a test.

        Args:
          evaluation: the outputs for the dataset.
          dataset: the examples.
          measured_on: the result of `measured_on` for the split.
        """
        ...

    def describe(self, results: Results) -> str:
        """Returns sentences that give the results and the data on which they were measured."""
        ...
