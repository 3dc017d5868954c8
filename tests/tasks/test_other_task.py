"""The loop with a task without clips, class names and batch norm: it shows what the loop assumes about a task."""

import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import common
from nl_jax import tasks
from nl_jax.data.dataset import Dataset
from nl_jax.data.loader import TrainBatches, test_batches
from nl_jax.errors import InputError, Preempted
from nl_jax.models.summary import Layer, Summary
from nl_jax.runs import stages
from nl_jax.tasks import restore_network, task_of
from nl_jax.training import sharding
from nl_jax.training.evaluator import Evaluator
from nl_jax.training.logs import read_metrics
from nl_jax.training.optimizer import make_optimizer
from nl_jax.training.run import Run
from nl_jax.training.task import Evaluation, Task

SIDE = 4


class Images(Dataset):
    """Noise images and their brightness."""

    classes = ("brightness",)
    ignored = ()
    names = tuple(f"{index}.png" for index in range(10))

    def __len__(self):
        return 10

    def train_example(self, index, rng=None):
        image = np.random.default_rng(index).uniform(size=(SIDE, SIDE, 3)).astype(np.float32)
        facts = {"index": np.int32(index), "failed": np.zeros(0, np.int32)}
        return {"image": image, "target": np.float32(image.mean())} | facts

    test_example = train_example

    def failure_reason(self, index):
        return ""

    def list_hash(self):
        return "0123456789ab"


@dataclass
class Errors(Evaluation):
    errors: np.ndarray
    failed: np.ndarray

    def metrics(self):
        return {"closeness": float(1 - np.abs(self.errors).mean()), "images": len(self.errors)}

    def save(self, directory, dataset):
        path = directory / "errors.json"
        path.write_text(json.dumps(dict(zip(dataset.names, self.errors.tolist(), strict=True))))
        return path


class Brightness(Task):
    unit = example = "image"
    inputs = ("image",)
    train_figures = {"bias": "bias {:.3f}", "hidden": ""}  # noqa: RUF012
    validation_figures = {"closeness": "closeness {:.2f}"}  # noqa: RUF012
    result_figures = {"closeness": "closeness"}  # noqa: RUF012
    best = ("closeness",)
    curves = ()
    paper = "{}"
    by_class = ()
    test_options = {}  # noqa: RUF012

    def __init__(self, config):
        self.config = config

    def check(self):
        pass

    check_mesh = check_test = lambda self, *_: None

    def open_split(self, split, classes=None):
        return Images()

    def measured_on(self, split):
        return f"the {split} split"

    def train_batches(self, dataset, *, batch_size, seed, rows):
        return TrainBatches(dataset, batch_size=batch_size, seed=seed, rows=rows)

    def test_batches(self, dataset, rows):
        return test_batches(dataset, batch_size=self.config.eval_batch_size, rows=rows)

    def example_shapes(self, dataset=None):
        return {
            "image": jax.ShapeDtypeStruct((SIDE, SIDE, 3), jnp.float32),
            "target": jax.ShapeDtypeStruct((), jnp.float32),
        }

    def build(self, num_classes, rngs):
        return nnx.Linear(3, num_classes, rngs=rngs)

    def summary(self, num_classes, example):
        return Summary("a line", (Layer("fc", (1,), 4, 3),), ())

    def optimizer(self, schedule):
        def biases(params):
            return {name: name.endswith("bias") for name in params}

        return make_optimizer(self.config.optimizer, schedule, decay=biases, scaled=((0.0, biases),))

    def loss(self, model, batch, key):
        noise = 1e-6 * jax.random.normal(key)
        found = model(batch["image"].mean(axis=(1, 2)))[:, 0] + noise
        return jnp.square(found - batch["target"]).mean(), {"bias": model.bias[0], "hidden": noise}

    def forward(self, dataset):
        return lambda model, inputs: model(inputs["image"].mean(axis=(1, 2)))[:, 0]

    def start_arrays(self, source, arrays):
        return arrays

    def evaluate(self, dataset, batches, forward, gather):
        errors = []
        for batch in batches:
            found = np.asarray(forward({"image": batch["image"]}))
            errors.append(found - gather({"target": batch["target"]})["target"])
        return Errors(np.concatenate(errors)[: len(dataset)], np.zeros(len(dataset), bool))

    def results(self, evaluation, dataset, measured_on):
        return evaluation.metrics() | {"measured_on": measured_on}

    def describe(self, results):
        return f"closeness {results['closeness']:.3f}"


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "brightness", Brightness)
    config = common.base()
    config.data = common.long_range_data()
    config.task = "brightness"
    config.update_from_flattened_dict(
        {
            "steps": 4,
            "batch_size": 8,
            "eval_batch_size": 8,
            "eval_every": 2,
            "log_every": 1,
            "checkpoint_every": 1,
            "optimizer.schedule": "constant",
            "optimizer.learning_rate": 0.1,
        }
    )
    return config


@pytest.fixture(autouse=True)
def optax_promotes():
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_a_run_of_another_task_is_resumed_tested_and_read_back(config, tmp_path, monkeypatch, capsys):
    expected = stages.train(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Run, "asked_to_end", lambda run: run.step == 3)
        with pytest.raises(Preempted, match="saved at step 3"):
            stages.train(config, tmp_path / "run")
    assert stages.train(config, tmp_path / "run") == expected
    printed = capsys.readouterr().out
    assert "4 steps of 8 images" in printed and "bias 0.000" in printed and "validation closeness 0." in printed
    assert expected.keys() == {
        "closeness",
        "images",
        "measured_on",
        "steps",
        "parameters",
        "macs",
        "bad_training_images",
    }
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert float(rows[3]["train_loss"]) < float(rows[0]["train_loss"])
    assert {row["train_bias"] for row in rows} == {"0.0"}  # the bias is frozen
    assert [bool(row["validation_closeness"]) for row in rows] == [False, True, False, True]
    assert "images_per_second" in rows[0] and "train_hidden" in rows[0] and "train_top1" not in rows[0]
    assert json.loads((tmp_path / "run" / "train_list.json").read_text()) == {"images": 10, "list": "0123456789ab"}

    mesh = sharding.make_mesh(-1, 1)
    graphdef, *arrays = restore_network(tmp_path / "run", mesh)
    task = task_of(config)
    found = Evaluator(graphdef, task.forward(Images()), mesh)(task, *arrays, Images())
    assert found.metrics()["closeness"] == expected["closeness"]
    assert set(json.loads((tmp_path / "run" / "errors.json").read_text())) == set(Images.names)


def test_a_task_that_does_not_exist(config):
    config.task = "segmentation"
    with pytest.raises(InputError, match="task='segmentation' is unknown; choose one of classification"):
        task_of(config)
