"""A run with keypoints: its batches, figures, skeletons, and pictures of the attention at a keypoint."""

import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import PIL.Image
import pytest
from flax import nnx

from configs import poses
from experiments import attend_keypoints, predict_objects
from experiments.report.page import render
from experiments.report.runs import read_runs
from nl_jax.data.coco.example import mirrored
from nl_jax.data.coco.keypoints import COCO_NAMES
from nl_jax.data.embedded.poses import WIDTH
from nl_jax.errors import InputError
from nl_jax.evaluation.coco import evaluate
from nl_jax.models import flat
from nl_jax.runs import stages
from nl_jax.runs.detector import read_keypoints
from nl_jax.tasks import restore_network, task_of
from nl_jax.training import sharding, workdir
from nl_jax.training.checkpoint import Checkpoints
from nl_jax.training.evaluator import Evaluator
from nl_jax.training.optimizer import make_schedule
from nl_jax.training.step import TrainState, create_state, make_train_step

NARROW = {
    "batch_size": 2,
    "recipe_batch_size": 2,
    "eval_batch_size": 2,
    "data.test_size": 4,
    "model.width": 4,
    "model.norm": "frozen",
    "detector.fpn_channels": 8,
    "detector.box_channels": 8,
    "detector.keypoint_channels": 8,
    "detector.pre_nms": 16,
    "detector.proposals": 8,
    "detector.score_threshold": 0.0,
}


def tiny(**changes):
    config = poses.get_config("blocks")
    config.update_from_flattened_dict(NARROW | changes)
    return config


def one_device():
    return sharding.make_mesh(1, 1, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir and the results of a new network that was tested."""
    directory = tmp_path_factory.mktemp("keypoints") / "run"
    task = task_of(tiny())
    dataset = task.open_split("test")
    graphdef, params, batch_stats = flat.split(task.build(1, nnx.Rngs(0)))
    workdir.claim_workdir(directory, task, dataset)
    state = TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optax.identity().init(params))
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(state, {})
    found = Evaluator(graphdef, task.forward(), one_device())(task, params, batch_stats, dataset)
    results = task.results(found, dataset, "the test split")
    found.save(directory, dataset)
    workdir.write_json(directory / "results.json", results)
    return directory, results


def test_a_batch_has_what_the_loss_needs_and_its_figures_are_logged():
    task = task_of(tiny())
    dataset = task.open_split("train")
    batch = next(task.train_batches(dataset, batch_size=2, seed=0, rows=range(2)))
    example = task.example_shapes(dataset)
    assert example["keypoints"].shape == (1, 17, 3) and batch["keypoints"].shape == (2, 1, 17, 3)
    batch = {name: jnp.asarray(batch[name]) for name in example}
    graphdef, *arrays = flat.abstract(lambda: task.build(1, nnx.Rngs(0)))

    def loss(arrays):
        return task.loss(flat.merge(graphdef, *arrays), batch, jax.random.key(0))

    total, metrics = jax.eval_shape(loss, arrays)
    assert total.shape == () and metrics.keys() == task.train_figures.keys()
    assert {"keypoint_loss", "keypoints"} < metrics.keys() and "mask_loss" not in metrics


def test_training_steps_lower_the_loss_and_move_every_kernel_of_the_blocks():
    """Of two pictures and their mirror images. The blocks start as the identity, as those of table 6 do."""
    as_in_the_paper = {f"detector.keypoint_options.{name}": "default" for name in ("norm", "norm_scale")}
    config = tiny(**{"optimizer.weight_decay": 0.0, "optimizer.warmup_steps": 0} | as_in_the_paper)
    task = task_of(config)
    dataset = task.open_split("train")
    order = dataset.keypoints.flip_order
    examples = [dataset.train_example(index, np.random.default_rng(0)) for index in range(2)]
    left, right = COCO_NAMES.index("left_wrist"), COCO_NAMES.index("right_wrist")
    for example in examples[:2]:
        turned = mirrored(example, order)
        np.testing.assert_allclose(turned["keypoints"][0, left, 0], WIDTH - example["keypoints"][0, right, 0])
        examples.append(turned)
    batch = {name: jnp.stack([example[name] for example in examples]) for name in task.example_shapes(dataset)}

    mesh, schedule = one_device(), make_schedule(config.optimizer, config.steps)
    optimizer = task.optimizer(schedule)
    with jax.numpy_dtype_promotion("standard"):
        train_state = create_state(partial(task.build, 1), optimizer, mesh, seed=0)
        graphdef, _, _ = flat.abstract(lambda: task.build(1, nnx.Rngs(0)))
        step = make_train_step(graphdef, task.loss, optimizer, schedule, mesh, train_state)
        kernels = {name for name in train_state.params if "nonlocal_blocks" in name and name.endswith("kernel")}
        before = {name: np.array(train_state.params[name]) for name in kernels}  # a step takes the state away
        moved, losses = [], []
        for _ in range(6):
            train_state, metrics = step(train_state, batch, jax.random.key(0))
            moved.append({name for name in kernels if (np.asarray(train_state.params[name]) != before[name]).any()})
            losses.append(float(metrics["keypoint_loss"]))
    assert len(kernels) == 8 and moved[0] == {name for name in kernels if "w_z" in name}
    assert moved[-1] == kernels  # theta, phi and g have a gradient as soon as W_z is not 0
    assert losses[-1] < losses[0] and float(metrics["keypoints"]) > 20


def test_figures_are_those_of_pycocotools_and_say_what_is_exchanged(run):
    directory, results = run
    detections = json.loads((directory / "detections.json").read_text())
    truth = task_of(tiny()).open_split("test").coco()
    assert len(detections) == results["detections"] > 0 and len(detections[0]["keypoints"]) == 51
    figures = evaluate(truth, detections, "keypoints").figures
    assert results["keypoint_ap"] == figures["AP"] and results["keypoint_ap50"] == figures["AP50"]
    assert "mask_ap" not in results and "box_ap" in results
    by_name = json.loads((directory / "keypoints_by_name.json").read_text())
    assert [one["keypoint"] for one in by_name] == list(COCO_NAMES)
    words = task_of(tiny()).describe(results | {"keypoint_exchanged": 0.25})
    assert "keypoint AP" in words and "left for right or right for left 25.0%" in words


def test_skeletons_are_told_and_drawn(run, tmp_path):
    directory, _ = run
    (category,) = json.loads((directory / "keypoints.json").read_text())
    assert category["keypoints"] == list(COCO_NAMES) and len(category["skeleton"]) == 19
    picture = np.random.default_rng(0).integers(256, size=(120, 90, 3), dtype=np.uint8)
    PIL.Image.fromarray(picture).save(tmp_path / "a.png")
    lines, out = [], tmp_path / "out"
    out.mkdir()
    options = {"best": False, "min_score": 0.0, "every": 0.0, "out": out, "print_json": lines.append}
    predict_objects.predict(directory, [str(tmp_path / "a.png")], **options)
    first = lines[0]["objects"][0]
    assert list(first["keypoints"]) == list(COCO_NAMES)
    (x0, y0, x1, y1), points = first["box"], np.array(list(first["keypoints"].values()))
    assert (points[:, 0] >= x0 - 0.1).all() and (points[:, 0] <= x1 + 0.1).all()
    assert (points[:, 1] >= y0 - 0.1).all() and (points[:, 1] <= y1 + 0.1).all()
    assert (out / "a.png").exists()


def test_keypoints_of_an_imported_network_have_names(tmp_path):
    assert read_keypoints(tmp_path, 2, 17).names == COCO_NAMES
    found = read_keypoints(tmp_path, 2, 4)
    assert found.names == ("1", "2", "3", "4") and [len(of) for of in found.of_category] == [4, 4]


def test_attend_draws_what_the_place_of_a_keypoint_looks_at(run, tmp_path):
    directory, _ = run
    task = task_of(tiny())
    dataset = task.open_split("test")
    model = flat.merge(*restore_network(directory, one_device()))
    model.eval()
    options = {"block": None, "keypoint": "left_ankle", "number": 0, "count": 5, "ending": "png", "out": tmp_path}
    paths = attend_keypoints.draw(task, model, dataset, 1, **options)
    assert all(path.exists() for path in paths) and len(paths) == 2
    for changes, words in (
        ({"block": "res4_0_nonlocal"}, "the keypoint head has keypoint_1_nonlocal, keypoint_2_nonlocal"),
        ({"keypoint": "tail"}, "--keypoint=tail: valid are nose, left_eye"),
        ({"number": 99}, "--object=99: .* objects are found in 1"),
    ):
        with pytest.raises(InputError, match=words):
            attend_keypoints.draw(task, model, dataset, 1, **options | changes)


def test_the_report_has_ap_and_confusions_by_keypoint(run):
    directory, _ = run
    page = render(read_runs([str(directory)]), "keypoints")
    assert re.search(r'<table id="keypoints">.*left_ankle.*</table>', page, re.DOTALL)
    assert "keypoints, AP50" in page


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"detector.keypoints": 5}, "detector.keypoints=5: the data have the 17 keypoints nose, left_eye"),
        ({"detector.keypoints": 0, "detector.keypoint_blocks": ()}, "data.name='poses' has keypoints and no masks"),
        ({"detector.keypoint_blocks": (3,)}, r"keypoint_blocks=\(3,\) must be different numbers of 1 to 2"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(tmp_path, changes, message):
    config = tiny(**{"batch_size": 8, "eval_batch_size": 8} | changes)
    if not config.detector.keypoint_blocks:
        config.detector.keypoint_options.update(dict.fromkeys(config.detector.keypoint_options, "default"))
    with pytest.raises(InputError, match=message):
        stages.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
