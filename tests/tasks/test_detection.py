"""A detector in the training loop: its own properties, and the properties of every run."""

import json
from functools import partial
from itertools import chain

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from flax import nnx
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from configs import coco, scenes
from nl_jax.data.coco.check import check
from nl_jax.errors import InputError, Preempted
from nl_jax.models import flat
from nl_jax.ops import devices
from nl_jax.runs import stages
from nl_jax.tasks import restore_network, task_of
from nl_jax.training import sharding
from nl_jax.training.logs import read_metrics
from nl_jax.training.optimizer import make_schedule
from nl_jax.training.run import Run
from nl_jax.training.start import Start, take_over
from nl_jax.training.step import create_state, make_train_step

NARROW = {
    "batch_size": 8,
    "recipe_batch_size": 8,
    "eval_batch_size": 8,
    "precise_bn_batches": 1,
    "log_every": 1,
    "model.blocks_per_stage": (1, 1, 1, 1),
    "model.width": 4,
    "detector.fpn_channels": 8,
    "detector.box_channels": 16,
    "detector.mask_channels": 8,
    "detector.pre_nms": 24,
    "detector.train_pre_nms": 24,
    "detector.proposals": 16,
    "detector.train_proposals": 16,
    "detector.rpn_samples": 16,
    "detector.roi_samples": 8,
    "detector.detections": 6,
}


@pytest.fixture(autouse=True)
def optax_promotes():
    with jax.numpy_dtype_promotion("standard"):
        yield


def tiny(**changes):
    config = scenes.get_config("block")
    small = {"steps": 4, "checkpoint_every": 2, "data.validation_size": 4, "data.test_size": 12}
    config.update_from_flattened_dict(NARROW | small | {"optimizer.warmup_steps": 1} | changes)
    return config


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The workdir and the results of a run without interruption."""
    directory = tmp_path_factory.mktemp("detection") / "whole"
    with jax.numpy_dtype_promotion("standard"):
        return directory, stages.train(tiny(), directory)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(whole, tmp_path, monkeypatch, capsys):
    directory, expected = whole
    with monkeypatch.context() as patch:
        patch.setattr(Run, "asked_to_end", lambda run: run.step == 3)
        with pytest.raises(Preempted, match="saved at step 3"):
            stages.train(tiny(), tmp_path)
    assert stages.train(tiny(), tmp_path) == expected
    assert "4 steps of 8 images" in capsys.readouterr().out
    names = ("train_loss", "train_mask_loss", "grad_norm", "validation_box_ap")
    rows, others = ([[row[n] for n in names] for row in read_metrics(d / "metrics.csv")] for d in (tmp_path, directory))
    assert rows == others and len(rows) == 4
    mesh = sharding.make_mesh(-1, 1)
    found, wanted = (restore_network(d, mesh)[1:] for d in (tmp_path, directory))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert (tmp_path / "detections.json").read_bytes() == (directory / "detections.json").read_bytes()


def test_detections_scored_by_pycocotools_alone_give_the_figures(whole, tmp_path):
    directory, results = whole
    assert results["images"] == 12 and results["undecodable"] == 0 and results["measured_on"] == "the test split"
    assert json.loads((directory / "results.json").read_text()) == results
    detections = json.loads((directory / "detections.json").read_text())
    assert results["detections"] == len(detections) > 0
    dataset = task_of(tiny()).open_split("test")
    (tmp_path / "truth.json").write_text(json.dumps(dataset.coco()))
    truth = COCO(tmp_path / "truth.json")
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        evaluation = COCOeval(truth, truth.loadRes(str(directory / "detections.json")), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        for place, figure in enumerate(("ap", "ap50", "ap75", "ap_small")):
            assert results[f"{name}_{figure}"] == evaluation.stats[place]
        assert results[f"{name}_ar100"] == evaluation.stats[8]
    by_class = json.loads((directory / "ap_by_class.json").read_text())
    assert by_class.keys() == {"box", "mask"} and set(by_class["box"]) == set(dataset.classes)


def losses_on(mesh, config):
    task = task_of(config)
    dataset = task.open_split("train")
    build = partial(task.build, len(dataset.classes))
    schedule = make_schedule(config.optimizer, config.steps)
    optimizer = task.optimizer(schedule)
    graphdef, _, _ = flat.abstract(lambda: build(nnx.Rngs(0)))
    train_state = create_state(build, optimizer, mesh, seed=0)
    step = make_train_step(graphdef, task.loss, optimizer, schedule, mesh, train_state)
    batches = task.train_batches(dataset, batch_size=8, seed=0, rows=range(8))
    losses = []
    for _ in range(3):
        batch = next(batches)
        batch = {name: batch[name] for name in task.example_shapes(dataset)}
        train_state, metrics = step(train_state, sharding.put_batch(batch, mesh), jax.random.key(1))
        losses.append(float(metrics["loss"]))
    assert step._cache_size() == 1
    return losses


def test_devices_change_nothing(monkeypatch):
    monkeypatch.setattr(sharding, "MIN_SHARDED_SIZE", 64)
    expected = losses_on(sharding.make_mesh(1, 1, devices=jax.devices()[:1]), tiny())
    for data, fsdp in ((8, 1), (4, 2)):
        np.testing.assert_allclose(losses_on(sharding.make_mesh(data, fsdp), tiny()), expected, rtol=1e-5)


def test_biases_have_a_rate_of_their_own_and_what_is_frozen_does_not_move():
    config = coco.get_config("block").unlock()
    config.update_from_flattened_dict(NARROW | {"model.blocks_per_stage": (1, 1, 6, 1)})
    config.optimizer.update(schedule="constant", learning_rate=0.1, warmup_steps=0, weight_decay=0.5, momentum=0.0)
    task = task_of(config)
    optimizer = task.optimizer(make_schedule(config.optimizer, config.steps))
    _, params, _ = flat.abstract(lambda: task.build(3, nnx.Rngs(0)))
    params = {name: jnp.ones(array.shape) for name, array in params.items()}
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    found = {name: float(update.ravel()[0]) for name, update in updates.items()}
    expected = {
        "fpn/lateral/0/kernel": -0.15,
        "fpn/lateral/0/bias": -0.2,
        "backbone/res4/4/nonlocal_block/theta/kernel": -0.15,
        "backbone/res4/4/nonlocal_block/norm/scale": -0.1,
        "backbone/res4/4/nonlocal_block/norm/bias": -0.2,
        "backbone/conv1/kernel": 0,
        "backbone/res2/0/conv1/kernel": 0,
        "backbone/res3/0/conv1/kernel": -0.15,
        "backbone/res3/0/norm1/scale": 0,
        "backbone/res3/0/norm1/bias": 0,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_a_detector_starts_from_one_of_other_classes_and_from_an_image_network(whole, monkeypatch):
    directory, _ = whole
    config = tiny(**{"data.cues": 3})
    task = task_of(config)
    mesh = sharding.make_mesh(-1, 1)
    optimizer = task.optimizer(make_schedule(config.optimizer, config.steps))
    train_state = create_state(partial(task.build, 3), optimizer, mesh, seed=1)
    taken, report = take_over(train_state, Start(directory, task_of(tiny())), task, ("a", "b", "c"), mesh)
    left = {name.rsplit("/", 1)[0] for name in report.left_at_init}
    assert left == {"box_head/classes", "box_head/deltas", "mask_head/logits"}
    source = restore_network(directory, mesh)[1]
    np.testing.assert_array_equal(taken.params["fpn/lateral/0/kernel"], source["fpn/lateral/0/kernel"])

    from configs import quickstart

    images = task_of(quickstart.get_config("images"))
    arrays = {"conv1/kernel": 1, "classifier/fc/kernel": 2}
    assert task.start_arrays(images, arrays) == {"backbone/conv1/kernel": 1}


@pytest.fixture
def photographs(tmp_path):
    """(annotation file, faults in it): 8 wide and 8 tall pictures with a bright square each, and 25 faults.

    A fault is (kind, entry or file), as `nl_jax.data.coco.check` names it.
    """
    rng = np.random.default_rng(0)
    listed, annotations = [], []
    for number in range(16):
        height, width = (48, 64) if number < 8 else (64, 48)
        pixels = rng.integers(60, size=(height, width, 3), dtype=np.uint8)
        x, y = rng.integers(4, 20, 2).tolist()
        pixels[y : y + 20, x : x + 20] = 220
        PIL.Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        listed.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        corners = [x, y, x + 20, y, x + 20, y + 20, x, y + 20]
        entry = {"id": number + 1, "image_id": number, "category_id": 7, "bbox": [x, y, 20, 20], "area": 400}
        annotations.append(entry | {"iscrowd": 0, "segmentation": [corners]})
    faults = [*damaged_images(tmp_path, listed), *damaged_entries(listed, annotations)]
    content = {"images": listed, "annotations": annotations, "categories": [{"id": 7, "name": "square"}]}
    (tmp_path / "squares.json").write_text(json.dumps(content))
    return tmp_path / "squares.json", faults


def damaged_images(folder, listed):
    """Damages six of the pictures and adds one that nobody lists."""
    (folder / "1.png").write_bytes(b"no picture")
    (folder / "2.png").write_bytes(b"")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:1000])
    (folder / "9.png").unlink()
    PIL.Image.new("RGB", (40, 30)).save(folder / "10.png")
    (folder / "4.png").rename(folder / "4.jpg")
    listed[4]["file_name"] = "4.jpg"
    PIL.Image.new("RGB", (40, 30)).save(folder / "other.png")
    kinds = {"unreadable": (1, 2, 3), "missing": (9,), "image size": (10,), "suffix": (4,)}
    return [(kind, f"image {n}") for kind, of_kind in kinds.items() for n in of_kind] + [("unlisted", "other.png")]


def damaged_entries(listed, annotations):
    """Adds entries of which none, or not all, can be used."""
    run_lengths = {"size": [48, 64], "counts": [0, 3072]}
    damage = [
        ("unknown category", {"category_id": 8}),
        ("entry", {"category_id": "7"}),
        ("entry", {"image_id": "0"}),
        ("unknown image", {"image_id": 99}),
        ("mask", {"segmentation": [[1, 1, 5, 5]]}),
        ("mask", {"segmentation": [[-9, -9, -2, -9, -9, -2]]}),
        ("mask", {"segmentation": run_lengths | {"size": [64, 48]}}),
        ("mask", {"segmentation": run_lengths | {"counts": "Pob"}}),
        ("box", {"bbox": [5, 5, -3, 5]}),
        ("box", {"bbox": [5, 5, float("nan"), 5]}),
        ("box", {"bbox": [5, 5, 0, 5]}),
        ("box", {"bbox": [90, 5, 9, 9]}),
        ("box outside", {"bbox": [*annotations[0]["bbox"][:2], 70, 20]}),
        ("crowd", {"iscrowd": 2}),
        ("area", {"area": -1}),
    ]
    annotations += [annotations[0] | {"id": 100 + place} | fields for place, (_, fields) in enumerate(damage)]
    faults = [(kind, f"annotation {100 + place}") for place, (kind, _) in enumerate(damage)]
    annotations += [annotations[0], "no entry"]
    listed += [listed[0] | {"id": "16"}]
    faults += [("repeated id", "annotation 1"), ("entry", f"annotation at place {len(annotations) - 1}")]
    return [*faults, ("entry", "image '16'")]


def test_a_damaged_folder_of_ones_own_is_named_whole_and_compiles_for_each_shape_of_images_once(
    photographs, tmp_path, monkeypatch, capsys
):
    file, faults = photographs
    lines = chain.from_iterable(
        check({"train": (tmp_path, file)}, masks=True, keypoints=False, num_workers=0, timeout=60.0)
    )
    problems = [line.problem for line in lines]
    assert len(faults) == 25 and not {p.result for p in problems} & {""}
    assert sorted((p.kind, p.where or p.file.rsplit("/", 1)[-1]) for p in problems) == sorted(faults)

    config = coco.get_config("small")
    config.update_from_flattened_dict(
        NARROW
        | {
            "steps": 6,
            "optimizer.warmup_steps": 1,
            "eval_every": 0,
            "max_bad_videos": 0.5,
            "model.norm": "frozen",
            "data.train": str(file),
            "data.short_sides": (48, 64),
            "data.long_side": 96,
            "data.test_short_side": 64,
            "data.max_boxes": 4,
        }
    )
    compiled = []

    def compute(run, batch, compute=Run.compute):
        compute(run, batch)
        compiled.append((batch["images"].shape[1:3], run._train_step._cache_size()))

    monkeypatch.setattr(Run, "compute", compute)
    results = stages.train(config, tmp_path / "run")
    assert {shape for shape, _ in compiled} == {(64, 96), (96, 64)} and compiled[-1][1] == 2
    assert results["images"] == 16 and results["undecodable"] == 5 and results["mask_ap"] >= 0
    assert results["measured_on"] == "the training images (data.test is not given)"
    printed = capsys.readouterr().out
    assert "faults of the annotation file: 4 of kind 'entry'" in printed
    assert "5 of these images could not be decoded" in printed and results["annotation_faults"]["entry"] == 4
    assert "the annotation file of these images has faults, which can change the figures: 4 of kind 'entry'" in printed
    named = (tmp_path / "run" / "bad_images.csv").read_text()
    assert all(f"{number}.png" in named for number in (1, 2, 3, 9, 10)) and "4.jpg" not in named
    assert all(np.isfinite(float(row["train_loss"])) for row in read_metrics(tmp_path / "run" / "metrics.csv"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mesh.time": 2}, "mesh.time=2 splits frames, and an image has one"),
        ({"optimizer.bias_rate": -1.0}, "optimizer.bias_rate=-1.0 is out of range"),
        ({"detector.roi_samples": 0}, "roi_samples=0 is out of range"),
        (
            {f"model.nonlocal_options.{name}": "default" for name in ("pairwise", "subsample", "norm_scale")}
            | {"model.nonlocal_options.variant": "simplified"},
            "variant='simplified' is for networks of videos, not for a detector",
        ),
        ({"data.name": "voc"}, "data.name='voc' is unknown; choose one of scenes, poses, coco"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        stages.train(tiny(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_cpu_plans_the_step_on_large_images_for_memory():
    task = task_of(coco.get_config())

    def options(height, width):
        return task.compiler_options({"images": jax.ShapeDtypeStruct((height, width, 3), jnp.uint8)})

    assert options(800, 1344) == devices.options_for_memory() != {}
    assert options(256, 352) == {}
    with devices.compiling_for("tpu"):
        assert options(800, 1344) == {}

    def planned(options):
        """Bytes of a step that overwrites its donated arrays after it read them."""

        def step(kernels, x):
            kernels = [kernel - jax.grad(lambda k: jnp.tanh(x @ k).sum())(kernel) for kernel in kernels]
            return kernels, sum((x @ kernel).sum() for kernel in kernels)

        shapes = [jax.ShapeDtypeStruct((512, 512), jnp.float32)] * 8, jax.ShapeDtypeStruct((512, 512), jnp.float32)
        compiled = jax.jit(step, donate_argnums=0, compiler_options=options).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert planned(options(800, 1344)) < 0.7 * planned({})
