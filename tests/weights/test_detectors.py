"""Detectors of three programs, with names and layouts written here from the published layer tables."""

import numpy as np
import pytest
from flax import nnx

from nl_jax import weights
from nl_jax.errors import InputError
from nl_jax.models import DetectorConfig, MaskRCNN, ResNetConfig, flat

torch = pytest.importorskip("torch")

BACKBONE = {"blocks_per_stage": (1, 1, 1, 1), "width": 2, "norm": "frozen"}
SMALL = {"num_classes": 3, "fpn_channels": 3, "box_channels": 5, "mask_channels": 4, "keypoint_channels": 4}


def network(backbone=None, **fields):
    config = DetectorConfig(ResNetConfig(**BACKBONE | (backbone or {})), **SMALL | fields)
    return MaskRCNN(config, rngs=nnx.Rngs(0))


def arrays_of(model):
    _, params, stats = flat.split(model)
    return {name: np.asarray(value) for name, value in (params | stats).items()}


STAGES = range(4)
PARTS = ("conv1", "conv2", "conv3", "shortcut")


def tensors(source, keypoints=0):
    """Returns random tensors with the names and layout of a program. Programs differ in the names alone.

    With `keypoints` a head for this many keypoints replaces the mask head.
    """
    rng = np.random.default_rng(0)
    out = {}

    def add(name, *shape, bias=True):
        out[f"{name}.weight"] = rng.normal(size=shape)
        if bias:
            transposed = name.endswith(("conv5_mask", "deconv", "upsample", "score_lowres", "kps_score_lowres"))
            out[f"{name}.bias"] = rng.normal(size=shape[1 if transposed else 0])

    def norm(name, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            out[f"{name}.{part}"] = rng.uniform(0.5, 1.5, channels)

    body = {"torchvision": "backbone.body.", "detectron2": "backbone.bottom_up.", "mmdetection": "backbone."}[source]
    is_d2 = source == "detectron2"
    add(body + ("stem.conv1" if is_d2 else "conv1"), 2, 3, 7, 7, bias=False)
    norm(body + ("stem.conv1.norm" if is_d2 else "bn1"), 2)
    features = 2
    for stage in STAGES:
        d = 2 * 2**stage
        for part in PARTS:
            shapes = {"conv1": (d, features, 1, 1), "conv2": (d, d, 3, 3), "conv3": (4 * d, d, 1, 1)}
            shape = shapes.get(part, (4 * d, features, 1, 1))
            if is_d2:
                name, norm_name = (f"{body}res{stage + 2}.0.{part}{end}" for end in ("", ".norm"))
            elif part == "shortcut":
                name, norm_name = (f"{body}layer{stage + 1}.0.downsample.{i}" for i in (0, 1))
            else:
                name, norm_name = f"{body}layer{stage + 1}.0.{part}", f"{body}layer{stage + 1}.0.bn{part[-1]}"
            add(name, *shape, bias=False)
            norm(norm_name, shape[0])
        features = 4 * d
        lateral, output = {
            "torchvision": (f"backbone.fpn.inner_blocks.{stage}.0", f"backbone.fpn.layer_blocks.{stage}.0"),
            "detectron2": (f"backbone.fpn_lateral{stage + 2}", f"backbone.fpn_output{stage + 2}"),
            "mmdetection": (f"neck.lateral_convs.{stage}.conv", f"neck.fpn_convs.{stage}.conv"),
        }[source]
        add(lateral, 3, features, 1, 1)
        add(output, 3, 3, 3, 3)
    names = {
        "torchvision": ("rpn.head.conv.0.0", "rpn.head.cls_logits", "rpn.head.bbox_pred"),
        "detectron2": tuple(f"proposal_generator.rpn_head.{n}" for n in ("conv", "objectness_logits", "anchor_deltas")),
        "mmdetection": ("rpn_head.rpn_conv", "rpn_head.rpn_cls", "rpn_head.rpn_reg"),
    }[source]
    for name, shape in zip(names, ((3, 3, 3, 3), (3, 3, 1, 1), (12, 3, 1, 1)), strict=True):
        add(name, *shape)
    box = {
        "torchvision": ("box_head.fc6", "box_head.fc7", "box_predictor.cls_score", "box_predictor.bbox_pred"),
        "detectron2": ("box_head.fc1", "box_head.fc2", "box_predictor.cls_score", "box_predictor.bbox_pred"),
        "mmdetection": tuple(f"bbox_head.{n}" for n in ("shared_fcs.0", "shared_fcs.1", "fc_cls", "fc_reg")),
    }[source]
    prefix = "roi_head." if source == "mmdetection" else "roi_heads."
    background = 1 if source == "torchvision" else 0  # boxes and masks of the background
    for name, shape in zip(box, ((5, 147), (5, 5), (4, 5), (4 * (3 + background), 5)), strict=True):
        add(prefix + name, *shape)
    if keypoints:
        is_tv = source == "torchvision"
        for i in range(8):
            name = f"keypoint_head.{2 * i}" if is_tv else f"keypoint_head.conv_fcn{i + 1}"
            add(prefix + name, 4, 4 if i else 3, 3, 3)
        name = "keypoint_predictor.kps_score_lowres" if is_tv else "keypoint_head.score_lowres"
        add(prefix + name, 4, keypoints, 4, 4)
        return {name: np.asarray(value, np.float32) for name, value in out.items()}
    masks = {
        "torchvision": ("mask_head.{}.0", 0, "mask_predictor.conv5_mask", "mask_predictor.mask_fcn_logits"),
        "detectron2": ("mask_head.mask_fcn{}", 1, "mask_head.deconv", "mask_head.predictor"),
        "mmdetection": ("mask_head.convs.{}.conv", 0, "mask_head.upsample", "mask_head.conv_logits"),
    }[source]
    for i in range(4):
        add(prefix + masks[0].format(i + masks[1]), 4, 3 if i == 0 else 4, 3, 3)
    add(prefix + masks[2], 4, 4, 2, 2)
    add(prefix + masks[3], 3 + background, 4, 1, 1)
    return {name: np.asarray(value, np.float32) for name, value in out.items()}


def write(folder, source, arrays):
    if source == "detectron2":
        import pickle

        path = folder / "model.pkl"
        extra = {"pixel_mean": np.zeros(3), "proposal_generator.anchor_generator.cell_anchors.0": np.zeros((3, 4))}
        path.write_bytes(pickle.dumps({"model": arrays | extra, "__author__": "Detectron2 Model Zoo"}))
        return path
    path = folder / "model.pth"
    state = {name: torch.tensor(value) for name, value in arrays.items()}
    torch.save({"meta": {"epoch": 12}, "state_dict": state} if source == "mmdetection" else state, path)
    return path


@pytest.fixture(scope="module")
def reference():
    """Returns a network filled from torchvision. The parity test compares its outputs."""
    return tensors("torchvision")


@pytest.mark.parametrize("source", ["torchvision", "detectron2", "mmdetection"])
def test_every_array_has_its_place(source, tmp_path):
    theirs = tensors(source)
    model = network()
    report = weights.load(model, write(tmp_path, source, theirs), source)
    assert len(report.loaded) == len(theirs) and not report.left_at_init
    assert len(report.unused) == (2 if source == "detectron2" else 0)
    found, by_shape = arrays_of(model), sorted(theirs)
    # All sources fill names in the same order, so arrays at the same place have equal values, except by class.
    names = list(theirs)

    def of(index):
        return theirs[names[index]]

    order = {"backbone/conv1/kernel": 0, "backbone/norm1/var": 4, "backbone/res2/0/conv1/kernel": 5}
    assert by_shape
    np.testing.assert_array_equal(found["backbone/norm1/var"], of(order["backbone/norm1/var"]))
    stem = np.moveaxis(of(0), (0, 1), (-1, -2))[None]
    np.testing.assert_array_equal(
        found["backbone/conv1/kernel"], stem[..., ::-1, :] if source == "detectron2" else stem
    )
    kernel = np.moveaxis(of(order["backbone/res2/0/conv1/kernel"]), (0, 1), (-1, -2))[None]
    np.testing.assert_array_equal(found["backbone/res2/0/conv1/kernel"], kernel)

    box = [n for n in names if n.startswith("roi_head") and n.endswith("weight")]
    fc1, _, classes, deltas, *convs, deconv, logits = (theirs[n] for n in box)
    # Their features of a box go channel by channel, ours place by place.
    x = np.random.default_rng(1).normal(size=(2, 7, 7, 3)).astype(np.float32)
    np.testing.assert_allclose(
        x.reshape(2, -1) @ found["box_head/fc1/kernel"], x.transpose(0, 3, 1, 2).reshape(2, -1) @ fc1.T, rtol=1e-4
    )
    assert len(convs) == 4
    np.testing.assert_array_equal(found["mask_head/deconv/kernel"], deconv.transpose(2, 3, 0, 1))
    if source == "torchvision":
        np.testing.assert_array_equal(found["box_head/classes/kernel"], classes.T)
        np.testing.assert_array_equal(found["box_head/deltas/kernel"], deltas.T)
        np.testing.assert_array_equal(found["mask_head/logits/kernel"][0, 0], logits[..., 0, 0].T)
        return
    # Their background is the last class, without a box and a mask. Our background is the first class.
    np.testing.assert_array_equal(found["box_head/classes/kernel"], classes[[3, 0, 1, 2]].T)
    np.testing.assert_array_equal(found["box_head/deltas/kernel"][:, 4:], deltas.T)
    np.testing.assert_array_equal(found["mask_head/logits/kernel"][0, 0, :, 1:], logits[..., 0, 0].T)
    assert not found["box_head/deltas/kernel"][:, :4].any() and not found["mask_head/logits/bias"][:1].any()


@pytest.mark.parametrize("source", ["torchvision", "detectron2"])
def test_keypoints_have_their_place(source, tmp_path):
    theirs = tensors(source, keypoints=2)
    model = network(keypoints=2, keypoint_blocks=(4,))
    report = weights.load(model, write(tmp_path, source, theirs), source)
    assert len(report.loaded) == len(theirs)
    assert all(name.startswith("keypoint_head/nonlocal_blocks/0/") for name in report.left_at_init)
    found = arrays_of(model)
    *convs, deconv = (theirs[name] for name in theirs if "keypoint" in name and name.endswith("weight"))
    assert len(convs) == 8
    for i, kernel in enumerate(convs):
        np.testing.assert_array_equal(found[f"keypoint_head/convs/{i}/kernel"], kernel.transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(found["keypoint_head/deconv/kernel"], deconv.transpose(2, 3, 0, 1))

    # The last layer is new if the data have another number of keypoints.
    other = network(keypoints=3)
    report = weights.load(other, tmp_path / ("model.pkl" if source == "detectron2" else "model.pth"), source)
    assert report.left_at_init == ["keypoint_head/deconv/bias", "keypoint_head/deconv/kernel"]
    if source == "torchvision":
        plain = network(keypoints=2)
        weights.load(plain, tmp_path / "model.pth", source)
        assert "KeypointRCNN with num_keypoints=2, num_classes=4" in weights.save(plain, tmp_path / "out.pth")
        written = torch.load(tmp_path / "out.pth", weights_only=True)
        assert written.keys() == theirs.keys()
        assert all((written[name].numpy() == theirs[name]).all() for name in theirs)


def test_older_names_of_torchvision(reference, tmp_path):
    older = {}
    for name, value in reference.items():
        for new, old in ((".0.weight", ".weight"), (".0.bias", ".bias")):
            if name.startswith("backbone.fpn") and name.endswith(new):
                name = name.removesuffix(new) + old
        name = name.replace("rpn.head.conv.0.0", "rpn.head.conv")
        for i in range(4):
            name = name.replace(f"roi_heads.mask_head.{i}.0", f"roi_heads.mask_head.mask_fcn{i + 1}")
        older[name] = value
    assert len(older.keys() - reference.keys()) == 2 * (8 + 1 + 4)
    one, two = network(), network()
    for model, arrays in ((one, reference), (two, older)):
        weights.load(model, write(tmp_path, "torchvision", arrays), "torchvision")
    a, b = arrays_of(one), arrays_of(two)
    assert all((a[name] == b[name]).all() for name in a)


def test_out_and_in_again(reference, tmp_path):
    model = network()
    weights.load(model, write(tmp_path, "torchvision", reference), "torchvision")
    text = weights.save(model, tmp_path / "new" / "out.pth")
    assert "num_classes=4" in text
    written = torch.load(tmp_path / "new" / "out.pth", weights_only=True)
    assert written.keys() == reference.keys()
    assert all((written[name].numpy() == reference[name]).all() for name in reference)


def test_what_torchvision_cannot_build(tmp_path):
    with pytest.raises(InputError, match="no non-local blocks, and this network has res4_0_nonlocal"):
        weights.save(network({"nonlocal_blocks": {"res4": (0,)}}), tmp_path / "out.pth")
    with pytest.raises(InputError, match="masks=False"):
        weights.save(network(masks=False), tmp_path / "out.pth")


def test_inserted_blocks_stay_the_identity_and_are_listed(reference, tmp_path):
    model = network({"nonlocal_blocks": {"res4": (0,)}})
    report = weights.load(model, write(tmp_path, "torchvision", reference), "torchvision")
    left = {name.rsplit("/", 1)[0] for name in report.left_at_init}
    assert left == {f"backbone/res4/0/nonlocal_block/{part}" for part in ("theta", "phi", "g", "w_z", "norm")}
    assert "left at initialization: backbone/res4/0/nonlocal_block/g" in str(report)
    norm = model.backbone.res4[0].nonlocal_block.norm
    assert norm.kind == "affine" and not norm.scale[...].any() and not norm.bias[...].any()


def test_other_classes_get_new_layers(reference, tmp_path):
    model = network(num_classes=7)
    before = arrays_of(model)
    report = weights.load(model, write(tmp_path, "torchvision", reference), "torchvision")
    new = {"box_head/classes", "box_head/deltas", "mask_head/logits"}
    assert {name.rsplit("/", 1)[0] for name in report.left_at_init} == new
    after = arrays_of(model)
    assert all((before[name] == after[name]).all() for name in report.left_at_init)


def test_a_network_without_masks_takes_the_rest(reference, tmp_path):
    model = network(masks=False)
    report = weights.load(model, write(tmp_path, "torchvision", reference), "torchvision")
    assert not report.left_at_init and len(report.unused) == 12


def test_affine_norms_are_folded(reference, tmp_path):
    model = network({"norm": "affine", "norm_epsilon": 0.0})
    report = weights.load(model, write(tmp_path, "torchvision", reference), "torchvision")
    assert "17 batch norms were folded into affine layers" in str(report)
    scale, var = (reference[f"backbone.body.bn1.{part}"] for part in ("weight", "running_var"))
    np.testing.assert_allclose(model.backbone.norm1.scale[...], scale / np.sqrt(var), rtol=1e-6)


def test_an_image_network_starts_the_backbone(reference, tmp_path):
    theirs = {n.removeprefix("backbone.body."): v for n, v in reference.items() if n.startswith("backbone.body.")}
    theirs |= {"fc.weight": np.ones((10, 64), np.float32), "fc.bias": np.ones(10, np.float32)}
    model = network({"nonlocal_blocks": {"res4": (0,)}})
    report = weights.load(model, write(tmp_path, "torchvision", theirs), "torchvision")
    assert len(report.loaded) == len(theirs) - 2
    left = {name.split("/")[0] for name in report.left_at_init}
    assert left == {"backbone", "fpn", "rpn", "box_head", "mask_head"}
    assert all("nonlocal_block" in name for name in report.left_at_init if name.startswith("backbone"))
    np.testing.assert_array_equal(model.backbone.norm1.var[...], theirs["bn1.running_var"])


@pytest.mark.parametrize(
    "change, source, fields, message",
    [
        ({}, "keras", {}, "source='keras' is unknown; choose one of torchvision, detectron2, mmdetection, caffe2"),
        ({}, "mmdetection", {}, "unknown to source='mmdetection'.*source='torchvision' knows some of them"),
        ({"rpn.head.extra.weight": np.ones(3)}, "torchvision", {}, "1 of .* names are unknown.*rpn.head.extra.weight"),
        ({"rpn.head.conv.0.0.bias": None}, "torchvision", {}, "the model has rpn/conv/bias, and the file does not"),
        ({}, "torchvision", {"fpn_channels": 4}, r"has shape \(.*\) in the file and \(.*\) in the model"),
        ({}, "torchvision", {"box_size": 5}, "box_head/fc1/kernel takes 147 features, and box_size=5 has 25 places"),
    ],
)
def test_a_file_that_does_not_fit(change, source, fields, message, reference, tmp_path):
    arrays = {name: value for name, value in (reference | change).items() if value is not None}
    model = network(**fields)
    before = arrays_of(model)
    with pytest.raises(InputError, match=message):
        weights.load(model, write(tmp_path, "torchvision", arrays), source)
    after = arrays_of(model)
    assert all((before[name] == after[name]).all() for name in before)


def test_another_depth(reference, tmp_path):
    with pytest.raises(InputError, match=r"the file has the residual blocks .* the model .*; set blocks_per_stage"):
        weights.load(
            network({"blocks_per_stage": (1, 2, 1, 1)}), write(tmp_path, "torchvision", reference), "torchvision"
        )
