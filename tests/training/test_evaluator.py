"""One pass of a dataset through a network: batches, progress, and several processes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.progress import Progress

from nl_jax.errors import InputError
from nl_jax.models import flat
from nl_jax.tasks import task_of
from nl_jax.training import sharding
from nl_jax.training.evaluator import Evaluator, gather_rows


def test_every_example_is_seen_once_and_progress_is_told(tiny, mesh_of, monkeypatch):
    task = task_of(tiny("c2d", {"data.test_size": 5, "eval_batch_size": 2}))
    dataset = task.open_split("test")
    graphdef, *arrays = flat.split(task.build(len(dataset.classes), nnx.Rngs(0)))
    done, titles = [], []
    progress = Progress(disable=True)
    monkeypatch.setattr(progress, "update", lambda bar, completed: done.append(completed))
    mesh = mesh_of(2)

    def watch(batches, what):
        titles.append(what)
        return batches

    evaluator = Evaluator(graphdef, task.forward(dataset), mesh, watch=watch, progress=progress)
    found = evaluator(task, *jax.device_put(arrays, sharding.replicated(mesh)), dataset, "trying")
    assert done == [2, 4, 5] and titles == ["batch for trying"]
    videos = np.concatenate([dataset.test_example(index)["video"] for index in range(5)])
    model = flat.merge(graphdef, *arrays)
    model.eval()
    expected = task.scores(multi_label=False)(model, {"video": jnp.asarray(videos)})
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4)
    assert found.metrics()["videos"] == 5


def test_no_examples(tiny, mesh_of, monkeypatch):
    task = task_of(tiny("c2d"))
    dataset = task.open_split("test")
    monkeypatch.setattr(type(dataset), "__len__", lambda self: 0)
    graphdef, *arrays = flat.abstract(lambda: task.build(5, nnx.Rngs(0)))
    with pytest.raises(InputError, match="no videos"):
        Evaluator(graphdef, task.forward(dataset), mesh_of(1))(task, *arrays, dataset)


def test_rows_of_all_processes_come_in_order_and_once(monkeypatch):
    """Each of two processes has three of four rows, and both have the middle rows."""
    from jax.experimental import multihost_utils

    theirs = (np.array([12, 10, 11]), np.array([2, 0, 1]))
    monkeypatch.setattr(jax, "process_count", lambda: 2)

    def allgather(own, tiled):
        assert tiled
        return tuple(np.concatenate(pair) for pair in zip(own, theirs, strict=True))

    monkeypatch.setattr(multihost_utils, "process_allgather", allgather)
    found = gather_rows({"label": np.array([11, 12, 13])}, [1, 2, 3])
    assert found["label"].tolist() == [10, 11, 12, 13]
