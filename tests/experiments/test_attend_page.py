"""`experiments.attend --format=html`: the networks of one workdir or of several, before and after training."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs import quickstart, scenes
from experiments import attend_page
from nl_jax.errors import InputError
from nl_jax.figures import attention, explore
from nl_jax.models import flat
from nl_jax.runs.beginning import first_network
from nl_jax.tasks import restore_network, task_of
from nl_jax.training import sharding, workdir
from nl_jax.training.checkpoint import Checkpoints
from nl_jax.training.preprocessing import make_normalize
from nl_jax.training.step import TrainState


@pytest.fixture(scope="module")
def runs(tmp_path_factory, randomise):
    """The workdirs of narrow networks with numbers at random: two pairwise functions, other clips, and scenes."""
    directory = tmp_path_factory.mktemp("runs")

    def save(path, config, seed):
        task = task_of(config)
        classes = task.open_split("test").classes
        _, params, batch_stats = flat.split(randomise(lambda: task.build(len(classes), nnx.Rngs(0)), seed))
        workdir.write_workdir(path, config, classes)
        with Checkpoints(path) as checkpoints:
            checkpoints.save(
                TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optax.identity().init(params)), {}
            )

    for seed, name in enumerate(("products", "products/start", "softmax", "longer")):
        config = quickstart.get_config("images" if name.endswith("start") else "").unlock()
        config.model.width, config.data.test_size = 4, 5
        if name in ("softmax", "longer"):
            config.start.stage = ""
        if name == "softmax":
            config.model.nonlocal_options.pairwise = "embedded_gaussian"
        if name == "longer":
            config.data.frames = 18
        save(directory / name, config, seed)
    config = scenes.get_config("block").unlock()
    config.detector.update({"fpn_channels": 8, "box_channels": 16, "mask_channels": 8})
    config.model.width, config.data.test_size = 4, 5
    save(directory / "scenes", config, 0)
    return directory


def networks_of(path):
    text = re.search(r'type="application/json">(.*?)</script>', path.read_text(), re.S).group(1)
    return {network["name"]: network["blocks"] for network in json.loads(text)["networks"]}


def write(runs, tmp_path, *names, **options):
    options = {"untrained": False, "block": None, "position": None, "count": 20, "title": "it"} | options
    directories = [runs / name for name in names]
    return networks_of(attend_page.write(tmp_path / "page.html", directories, "test", 3, 0, **options))


def network(runs, name):
    model = flat.merge(*restore_network(runs / name, sharding.make_mesh(data=-1, fsdp=1)))
    model.eval()
    return model


def test_networks_side_by_side_are_those_of_the_workdirs(runs, tmp_path):
    found = write(runs, tmp_path, "products", "softmax", block="res3_1_nonlocal")
    assert list(found) == ["products", "softmax"]
    task = task_of(workdir.read_config(runs / "products"))
    video = make_normalize(task.config.input)(jnp.asarray(task.open_split("test").test_example(3)["video"]))
    for (name, blocks), pairwise in zip(found.items(), ("dot product", "embedded gaussian"), strict=True):
        (block,) = blocks
        assert block == "res3_1_nonlocal" and blocks[block]["pairwise"] == pairwise
        weights = attention.attend(network(runs, name), video, block, (2, 1, 0)).weights
        np.testing.assert_allclose(explore.unpack(blocks[block])[2 * 9 + 3], weights, atol=np.abs(weights).max() / 255)


def test_before_training_a_network_has_the_arrays_of_its_start_and_else_those_of_its_seed(runs):
    mesh = sharding.make_mesh(data=-1, fsdp=1)
    _, params, batch_stats = first_network(runs / "products", mesh)
    start = restore_network(runs / "products" / "start", mesh)[1:]
    task = task_of(workdir.read_config(runs / "products"))
    _, *made = flat.split(task.build(5, nnx.Rngs(jax.random.key(task.config.seed))))
    taken = 0
    for name, array in (params | batch_stats).items():
        part = int(name in batch_stats)
        is_taken = name in start[part] and not name.startswith("classifier")
        taken += is_taken
        np.testing.assert_allclose(array, (start if is_taken else made)[part][name], rtol=1e-6)
        assert is_taken or "nonlocal" in name or "classifier" in name, name
    assert taken > 20


def test_networks_that_see_other_clips_are_not_put_side_by_side(runs, tmp_path):
    with pytest.raises(InputError, match=r"--beside: test video 3 of .*longer is not the same as in .*products"):
        write(runs, tmp_path, "products", "longer")
    with pytest.raises(InputError, match=r"--beside: test video 3 of .*scenes is not the same"):
        write(runs, tmp_path, "products", "scenes")


def test_of_a_detector_the_page_has_an_image(runs, tmp_path):
    found = write(runs, tmp_path, "scenes", position=(1, 2))
    config = workdir.read_config(runs / "scenes")
    task = task_of(config)
    seen = task.open_split("test").test_example(3)
    batch = {name: jnp.asarray(seen[name])[None] for name in ("images", "sizes")}
    for name, packed in found["scenes"].items():
        ask = (network(runs, "scenes"), task.normalized(batch), batch["sizes"], name)
        expected = attention.attend_in_image(*ask, (1, 2)).weights
        at = packed["rows"].index(1) * len(packed["columns"]) + packed["columns"].index(2)
        np.testing.assert_allclose(explore.unpack(packed)[at], expected, atol=np.abs(expected).max() / 255)
