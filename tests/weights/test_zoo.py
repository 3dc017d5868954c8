"""Published networks: the facts in the table, and files in their formats that load from a name alone.

Entries of the same network, up to its geometry and depth, are loaded once. The test compares the logits of some. This
compares the logits of all: ALL_LOGITS=1 pytest tests/weights/test_zoo.py
"""

import dataclasses
import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import nl_jax
from configs import common
from nl_jax import weights, zoo
from nl_jax.errors import InputError
from nl_jax.models import flat
from nl_jax.models.geometry import GEOMETRIES
from nl_jax.runs import stages
from nl_jax.runs.detector import Detector
from nl_jax.runs.features import Extractor
from nl_jax.tasks import task_of
from nl_jax.training import sharding
from nl_jax.training.workdir import flatten
from nl_jax.weights import detector
from nl_jax.zoo.classes import class_names
from nl_jax.zoo.config import config_of
from nl_jax.zoo.pretrained import pretrained

DETECTORS = [name for name, entry in zoo.ENTRIES.items() if entry.is_detector]
CLASSIFIERS = [name for name in zoo.ENTRIES if name not in DETECTORS]
ALL = bool(os.environ.get("ALL_LOGITS"))
LOGITS = (
    "i3d_nln_r50_8x8",
    "c2d_nopool_r50_8x8",
    "release_i3d_r50_128x1",
    "pytorchvideo_i3d_r50_8x8",
)
# Millions of parameters, by the owners' pages. torchvision does not count frozen norms.
PARAMETERS = {
    "pytorchvideo_c2d_r50_8x8": 24.33,
    "mmaction2_nl_i3d_r50_gaussian_32x2": 31.7,
    "torchvision_maskrcnn_resnet50_fpn": 44.401393,
}


def network(name):
    """Returns the part of the network that decides the arrays of a file."""
    entry = zoo.find(name)
    config = config_of(entry)
    model, row = config.model.to_dict(), entry.row.rpartition(":")[2].removesuffix("_r101")
    pairwise = model["nonlocal_options"]["pairwise"] == "gaussian"
    options = (
        pairwise,
        model["nonlocal_options"]["norm"],
        model["nonlocal_preset"],
        model["groups"] if entry.is_detector else 1,
    )
    return (
        entry.source,
        model["inflate"],
        model["norm"],
        entry.classes,
        row.startswith("imagenet"),
        *options,
        config.get("detector", {}).get("masks"),
    )


def one_of_each(names):
    return list({network(name): name for name in reversed(names)}.values()) if not ALL else names


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NL_JAX_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def stand_in(monkeypatch):
    """Returns stand_in(name, **fields), which replaces a published network by one of another size and returns it."""

    def change(name, **fields):
        entry = zoo.find(name)
        fields = {f"model.{field}" if "." not in field else field: value for field, value in fields.items()}
        changed = dataclasses.replace(entry, fields=entry.fields | fields, digest=None)
        monkeypatch.setitem(zoo.ENTRIES, name, changed)
        return changed

    return change


def test_an_entry_has_the_fields_of_its_row():
    from experiments.foreign import config_of_row  # defines flags

    for entry in zoo.ENTRIES.values():
        of_row, found = flatten(config_of_row(entry).to_dict()), flatten(config_of(entry).to_dict())
        of_row |= {"task": of_row.get("task", "classification"), "batch_size": found["batch_size"]}
        of_row["num_workers"] = found["num_workers"]  # a field of training
        assert {name: of_row.get(name, "absent") for name in found} == found, entry.name


def test_what_the_table_says_can_be_so():
    for entry in zoo.ENTRIES.values():
        assert entry.address.startswith("https://") and entry.file and entry.page.startswith("https://")
        source = (detector.SOURCES if entry.is_detector else weights.SOURCES)[entry.source]
        config = config_of(entry)
        if entry.digest:  # names of files have the first digits of their hash
            assert entry.digest[1] in entry.file
        if entry.source != "detectron2" and entry.classes:  # detectron2's networks each have their own deviation
            assert tuple(config.input.mean) == source.mean and tuple(config.input.std) == source.std
        if not entry.is_detector and not source.images:
            two_d = entry.source == "mmaction2" and "c2d" in entry.name
            assert config.model.geometry in (source.geometries_2d if two_d else source.geometries)
            assert config.model.geometry in GEOMETRIES
    assert len(class_names("kinetics400")) == len(set(class_names("kinetics400"))) == 400
    assert class_names("kinetics400")[0] == "abseiling" and class_names("kinetics400")[-1] == "zumba"
    by_number, coco = class_names("coco90"), class_names("coco80")
    assert len(by_number) == 90 and by_number[89] == "toothbrush" == coco[79] and by_number[11] == "unused 12"
    assert [name for name in by_number if "unused" not in name] == list(coco)
    with pytest.raises(InputError, match="classes='imagenet' is unknown"):
        class_names("imagenet")


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_network_has_as_many_parameters_as_its_owner_says(name):
    entry = zoo.find(name)
    task = task_of(config_of(entry))
    _, params, _ = flat.abstract(lambda: task.build(len(class_names(entry.classes)), nnx.Rngs(0)))
    counted = {array: x for array, x in params.items() if not (entry.is_detector and "norm" in array)}
    millions = sum(int(np.prod(x.shape)) for x in counted.values()) / 1e6
    digits = len(str(PARAMETERS[name]).split(".")[1])
    assert round(millions, digits) == PARAMETERS[name]


def written(peers, write, entry, config):
    """Returns (tensors, path) of a random classifier file."""
    peer, row = peers[entry.source], entry.row.rpartition(":")[2]
    blocks = config.model.nonlocal_preset
    tensors = peer.checkpoint(
        50 if blocks else "few",
        i3d="i3d" in row,
        nonlocal_at={1: (1, 3), 2: (1, 3, 5)} if blocks else {},
        gaussian=config.model.nonlocal_options.pairwise == "gaussian",
        affine=config.model.norm == "affine",
        two_d=entry.source == "torchvision" or "mmaction2_c2d" in entry.name,
        classes=len(class_names(entry.classes)) or 7,
    )
    if config.model.nonlocal_options.norm == "none":
        tensors = {key: value for key, value in tensors.items() if "nonlocal" not in key or "_bn_" not in key}
    return tensors, write(entry.source, tensors)


@pytest.mark.parametrize("name", one_of_each((*LOGITS, *CLASSIFIERS)))
def test_a_file_of_the_format_loads_by_the_name_alone(name, peers, write, stand_in):
    few = {} if "nl5" in zoo.find(name).row else {"blocks_per_stage": (1, 2, 2, 2)}
    entry = stand_in(name, width=4, **few)
    config = config_of(entry)
    tensors, path = written(peers, write, entry, config)
    found = pretrained(name, path)
    assert not found.report.left_at_init and found.report.source == entry.source
    assert found.classes == class_names(entry.classes)
    if (name not in LOGITS and not ALL) or not found.classes:
        return
    groups = config.model.nonlocal_time_group.res3
    frames = 1 if config.data.frames == 1 else 64 if groups else 8
    video = np.random.default_rng(1).normal(size=(1, frames, 48, 48, 3)).astype(np.float32)
    graphdef, state = nnx.split(found.model)
    logits, _ = jax.jit(lambda state, video: nnx.merge(graphdef, state)(video))(state, jnp.asarray(video))
    options = config.model.nonlocal_options
    expected, _ = peers[entry.source].forward(
        tensors,
        video,
        config.model.geometry if frames > 1 else "slowfast_nopool",  # all geometries are equal for one frame
        depth=50 if "nl5" in entry.row else "few",
        groups=groups,
        **({} if options.pairwise == "default" else {"pairwise": options.pairwise}),
    )
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def detectron2_state(model):
    """Returns the arrays of our detector in detectron2's form: B, G, R, and the background last, without a box."""
    to_theirs = detector.SOURCES["detectron2"].to_theirs()
    _, params, stats = flat.split(model)
    state = {}
    for name, array in (params | stats).items():
        array, (layer, kind) = np.asarray(array), name.rsplit("/", 1)
        if layer in ("box_head/deltas", "mask_head/logits"):
            array = array[..., 4 if layer == "box_head/deltas" else 1 :]
        if layer == "box_head/classes":
            array = np.roll(array, -1, axis=-1)
        if kind == "kernel":
            if layer == "backbone/conv1":
                array = array[..., ::-1, :]
            if layer == "mask_head/deconv":
                array = np.moveaxis(array, (-2, -1), (0, 1))
            elif layer == "box_head/fc1":
                array = array.reshape(7, 7, -1, array.shape[-1]).transpose(3, 2, 0, 1).reshape(array.shape[-1], -1)
            else:
                array = np.moveaxis(array[0] if name.startswith("backbone/") else array, (-1, -2), (0, 1))
        state[to_theirs(name)] = array
    return state


@pytest.mark.parametrize("name", one_of_each(DETECTORS))
def test_a_file_of_a_detector_loads_by_the_name_alone(name, randomise, stand_in, tmp_path, torch, monkeypatch):
    small = {"blocks_per_stage": (1, 1, 1, 1), "width": 8, "detector.fpn_channels": 4, "detector.box_channels": 4}
    entry = stand_in(name, **small | {"detector.mask_channels": 4})
    task, classes = task_of(config_of(entry)), class_names(entry.classes)
    model = randomise(lambda: task.build(len(classes), nnx.Rngs(0)))
    path = tmp_path / "model"
    if entry.source == "torchvision":
        weights.save(model, path)
        assert Detector.from_pretrained(name, path).classes == classes
        with pytest.raises(InputError, match=r"load it with nl_jax\.Predictor\.from_pretrained"):
            monkeypatch.setattr("nl_jax.runs.detector.pretrained", lambda *_: pytest.fail("nothing needs its file"))
            Detector.from_pretrained("i3d_r50_8x8")
    else:
        path.write_bytes(pickle.dumps({"model": detectron2_state(model), "__author__": "Detectron2 Model Zoo"}))
    found = pretrained(name, path)
    assert found.report.source == entry.source and not found.report.left_at_init
    _, *expected = flat.split(model)
    _, *loaded = flat.split(found.model)
    for part, of in zip(loaded, expected, strict=True):
        for array in of:
            if "box_head/deltas" in array or "mask_head/logits" in array:
                background = 4 if "deltas" in array else 1  # the background is never shown
                np.testing.assert_array_equal(part[array][..., background:], of[array][..., background:])
            else:
                np.testing.assert_array_equal(part[array], of[array], err_msg=array)


def test_the_source_is_told_by_the_names_in_the_file(peers, write, tmp_path, stand_in):
    entry = stand_in("pytorchvideo_c2d_r50_8x8", width=4, blocks_per_stage=(1, 2, 2, 2))
    _, path = written(peers, write, entry, config_of(entry))
    path = path.rename(tmp_path / "misnamed.pkl")
    model = nl_jax.from_pretrained(entry.name, path)
    path.write_bytes(pickle.dumps({"a": np.zeros(2), "b": np.zeros(2)}))
    with pytest.raises(InputError, match=r"no source knows its names \(a, b\); there are caffe2, slowfast, "):
        weights.load(model, path)

    tensors = peers["pytorchvideo"].checkpoint(i3d=False, classes=7)
    with pytest.raises(InputError, match="is not pytorchvideo_c2d_r50_8x8: it lacks classifier/fc"):
        nl_jax.from_pretrained(entry.name, write("pytorchvideo", tensors))
    tensors = peers["pytorchvideo"].checkpoint(i3d=False, classes=400)
    wrapped = {f"model.{name}": tensor for name, tensor in tensors.items()}  # PySlowFast's prefix
    assert nl_jax.from_pretrained(entry.name, write("pytorchvideo", wrapped)).config.num_classes == 400


def test_a_video_is_named_by_two_lines(home, peers, write, stand_in, video_folder):
    small = {"data.num_clips": 1, "data.num_crops": 1, "data.test_crop": 64, "data.test_short_side": 64}
    entry = stand_in("i3d_r50_8x8", width=4, blocks_per_stage=(1, 2, 2, 2), **small)
    _, path = written(peers, write, entry, config_of(entry))
    place = home / "zoo" / "i3d_r50_8x8" / "I3D_8x8_R50.pkl"
    place.parent.mkdir(parents=True)
    path.rename(place)
    predictor = nl_jax.Predictor.from_pretrained("i3d_r50_8x8")
    five = predictor(video_folder / "flower" / "clip.mp4").top()
    assert len(five) == 5 and all(one["class"] in class_names("kinetics400") for one in five)


def test_what_cannot_be_is_said(monkeypatch):
    with pytest.raises(InputError, match="no published network 'i3d_nln_r50'; choose i3d_nln_r50_8x8"):
        nl_jax.from_pretrained("i3d_nln_r50")
    for name, message in (
        ("detectron2_mask_rcnn_r50_fpn_3x", "load it with nl_jax.runs.detector.Detector.from_pretrained"),
        ("release_imagenet_r50", "has no classifier: it is only a start for training"),
    ):
        monkeypatch.setattr("nl_jax.runs.predictor.pretrained", lambda *_: pytest.fail("nothing needs its file"))
        with pytest.raises(InputError, match=message):
            nl_jax.Predictor.from_pretrained(name)
    monkeypatch.setattr("nl_jax.runs.features.pretrained", lambda *_: pytest.fail("nothing needs its file"))
    with pytest.raises(InputError, match="detects objects in images; features need a network of videos"):
        Extractor.from_pretrained("detectron2_mask_rcnn_r50_fpn_3x")


def test_a_run_starts_from_a_published_network(home, peers, write, stand_in):
    entry = stand_in("i3d_r50_8x8", width=4, blocks_per_stage=(1, 2, 2, 2))
    tensors, path = written(peers, write, entry, config_of(entry))
    place = home / "zoo" / "i3d_r50_8x8" / "I3D_8x8_R50.pkl"
    place.parent.mkdir(parents=True)
    path.rename(place)
    config = common.base()
    config.start.model = "i3d_r50_8x8"
    start = stages._published(config)
    params, stats = start.arrays(sharding.make_mesh(data=-1, fsdp=1))
    np.testing.assert_array_equal(params["classifier/fc/kernel"], tensors["pred_w"].numpy().T)
    assert stats["norm1/mean"].shape == (4,) and start.classes() == class_names("kinetics400")
    config.start.workdir = "runs/other"
    with pytest.raises(InputError, match=r"start.model and start.workdir are both given"):
        stages._published(config)
    config.start.model = ""
    assert stages._published(config) is None
