"""What a kind of run decides: the loop, the checks and the programs ask it, and nothing else knows.

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
# (inputs) -> outputs of the network: one row for every example of the batch, on every process.
Forward = Callable[[Batch], Any]
# (arrays of this process's rows of a batch) -> those of all rows, on every process.
Gather = Callable[[Batch], Batch]


@runtime_checkable
class TrainBatches(Protocol):
    """Endless batches, which can be taken up again anywhere."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def close(self) -> None:
        """Ends the worker processes."""
        ...

    def get_state(self) -> dict[str, int]:
        """What a checkpoint keeps of the place."""
        ...

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to the place where `get_state` was asked."""
        ...


@runtime_checkable
class Evaluation(Protocol):
    """What a network gave for every example of a data set.

    Attributes:
      failed: which examples could not be decoded; they count as wrong.
    """

    failed: Bool[np.ndarray, "n"]

    def metrics(self) -> Results:
        """The figures, the number of examples and the hash of their list."""
        ...

    def save(self, directory: Path, dataset: Dataset) -> Path:
        """Writes what was found of every example, and returns the file."""
        ...


@runtime_checkable
class Task(Protocol):
    """One kind of run, for one config.

    Attributes:
      config: of the run, as those under `configs`.
      unit: what a batch is counted in, in the singular: "clip".
      example: what a data set is counted in, in the singular: "video".
      inputs: the arrays of a batch that the network reads in testing; the others are for the loss.
      train_figures: name of every metric of `loss` to its words beside the progress bar, a format string of its mean,
        such as "top-1 {:.1%}"; "" for a metric that is only logged. The same of the figures of a validation in
        `validation_figures`. Both decide the columns of metrics.csv.
      result_figures: figures of results.json that are shares to their words in the report.
      best: figures of a validation; the highest value of the first that a validation has is the best checkpoint.
      curves: of curves.png and of the report.
      validated_on: "validation", or what stands for it in this run, such as "the training videos".
      paper: format string of `config.paper`, the figures that the paper reports.
      by_class: how the names of parameters begin that depend on the classes; a network that tells other classes apart
        does not hand them on.
      test_options: fields of `config.data` that `experiments.evaluate` has flags for: (int or the choices, help).
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
        """Raises InputError for a value of the config that no data and no devices could make right."""
        ...

    def check_mesh(self, mesh: Mesh, num_classes: int, example: Example) -> None:
        """Raises InputError where the mesh cannot divide a batch of examples of these shapes as the network needs."""
        ...

    def check_test(self, mesh: Mesh, dataset: Dataset) -> None:
        """Raises InputError where the mesh cannot divide the examples of a data set that is to be tested."""
        ...

    # --------------------------------------------------------------------------------------------------------- the data

    def open_split(self, split: str, classes: tuple[str, ...] | None = None) -> Dataset:
        """A split of `config.data`, one of SPLITS; `classes` fixes the order of the labels."""
        ...

    def measured_on(self, split: str) -> str:
        """What a figure of this split is measured on, in words."""
        ...

    def notes(self, dataset: Dataset) -> Sequence[str]:
        """What the user should know of the training data: what is left out, say. A line each; none by default."""
        return ()

    def describes(self, dataset: Dataset) -> Mapping[str, object]:
        """File name to content of what a workdir keeps of the training data, as JSON, beside the classes."""
        return {}

    def train_batches(self, dataset: Dataset, *, batch_size: int, seed: int, rows: Sequence[int]) -> TrainBatches:
        """This process's `rows` of every batch. Batch k depends on the seed and on k alone."""
        ...

    def test_batches(self, dataset: Dataset, rows: Sequence[int]) -> Iterator[Batch]:
        """This process's `rows` of batches of `config.eval_batch_size`, every example once and in order."""
        ...

    def example_shapes(self, dataset: Dataset | None = None) -> Example:
        """What `loss` sees of one training example, without its batch axis.

        Raises:
          InputError: where the config does not say it and there is no data set.
        """
        ...

    # ------------------------------------------------------------------------------------------------------ the network

    def build(self, num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
        """A new network."""
        ...

    def summary(self, num_classes: int, example: Example) -> Summary:
        """What the network is made of and costs for one example.

        Raises:
          InputError: for a network that cannot be built, or that does not fit the example.
        """
        ...

    def optimizer(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """With all that differs from parameter to parameter: decay, rates, what is frozen."""
        ...

    def loss(self, model: nnx.Module, batch: dict[str, Array], key: Key[Array, ""]) -> tuple[Float[Array, ""], Metrics]:
        """The loss of a batch (b,..) and the metrics of `train_figures`; `key` is for dropout and samples."""
        ...

    def compiler_options(self, example: Example) -> Mapping[str, object]:
        """Options of `jax.jit` for the training step on examples of these shapes; none by default."""
        return {}

    def forward(self, dataset: Dataset) -> Callable[[nnx.Module, dict[str, Array]], Any]:
        """The function (model, inputs) -> outputs that tests a network on examples like those of the data set."""
        ...

    def start_arrays(self, source: "Task", arrays: FlatParams) -> FlatParams:
        """The arrays of the network of another run under the names that they have in this one's."""
        ...

    # ------------------------------------------------------------------------------------------------------ the figures

    def evaluate(self, dataset: Dataset, batches: Iterable[Batch], forward: Forward, gather: Gather) -> Evaluation:
        """Every example through the network.

        Args:
          batches: those of `test_batches`, as this process has them.
        """
        ...

    def results(self, evaluation: Evaluation, dataset: Dataset, measured_on: str) -> Results:
        """What results.json says of a test."""
        ...

    def describe(self, results: Results) -> str:
        """The results as sentences that say what they were measured on."""
        ...
