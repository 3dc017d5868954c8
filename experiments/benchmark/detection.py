"""Compares Mask R-CNN R50 with torchvision: forward pass and training step; NMS, RoIAlign and mask pasting alone."""

import argparse
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.benchmark.measure import Measurement, Program, compare, compiled_bytes
from nl_jax.evaluation.paste import paste
from nl_jax.models import DetectorConfig, MaskRCNN, ResNetConfig, flat
from nl_jax.models.detection.losses import loss
from nl_jax.models.summary import detector_summary
from nl_jax.ops import devices, roi_align
from nl_jax.ops.nms import nms
from nl_jax.weights import load

CASES = ("forward", "train_step", "nms", "roi_align", "paste")
MOMENTUM, RATE, DECAY = 0.9, 1e-4, 1e-4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, help="what to measure; by default all")
    parser.add_argument("--height", type=int, default=800, help="height of an image in pixels; by default %(default)s")
    parser.add_argument("--width", type=int, default=1216, help="width of an image in pixels; by default %(default)s")
    parser.add_argument("--batch", type=int, default=1, help="images in a batch; by default %(default)s")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="type of the computation; by default %(default)s",
    )
    parser.add_argument(
        "--block", action="store_true", help="add a non-local block in res4 to our network; torchvision has none"
    )


def run(arguments: argparse.Namespace) -> list[Measurement]:
    measurements = []
    if {"forward", "train_step"} & set(arguments.cases):
        measurements += _networks(arguments)
    parts = {"nms": _nms, "roi_align": _roi_align, "paste": _paste}
    for case in parts:
        if case in arguments.cases:
            measurements += parts[case](arguments)
    return measurements


def programs(arguments: argparse.Namespace):
    """Returns the programs of `--aot`: the training step, and the same step with RoIAlign as a gather."""

    def lower(form):
        def on(mesh):
            place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
            model = nnx.eval_shape(lambda: MaskRCNN(_config(arguments), rngs=nnx.Rngs(0)))
            graphdef, params, stats = flat.split(model)
            batch = jax.eval_shape(lambda: _batch(arguments))
            key = jax.eval_shape(lambda: jax.random.key(0))
            shapes = params, params, stats, batch, key
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes)
            with mock.patch.object(roi_align, "choose", lambda platform: form):
                return jax.jit(_step(graphdef), donate_argnums=(0, 1)).lower(*shapes)

        return on

    size = f"{arguments.batch} x {arguments.height} x {arguments.width}"
    return {f"Mask R-CNN R50 {size}, {arguments.dtype}: training step": (lower("einsum"), lower("gather"))}


def _config(arguments) -> DetectorConfig:
    blocks = {"res4": (4,)} if arguments.block else {}
    backbone = ResNetConfig(norm="frozen", freeze_at=2, nonlocal_blocks=blocks, dtype=arguments.dtype)
    return DetectorConfig(backbone, floor_strides=True, box_beta=1 / 9, train_proposals=2000)


def _batch(arguments, true: int = 100) -> dict[str, jax.Array]:
    """Returns a batch of noise images. Each image has ten true boxes, padded to `true` boxes."""
    rng = np.random.default_rng(0)
    b, h, w = arguments.batch, arguments.height, arguments.width
    side = rng.uniform(30, 300, (b, true, 2))
    corner = rng.uniform(0, 1, (b, true, 2)) * ([w, h] - side)
    arrays = {
        "images": rng.normal(size=(b, h, w, 3)).astype(np.float32),
        "sizes": np.full((b, 2), (h, w), np.int32),
        "boxes": np.concatenate([corner, corner + side], axis=-1).astype(np.float32),
        "classes": rng.integers(0, 80, (b, true)).astype(np.int32),
        "crowd": np.zeros((b, true), bool),
        "valid": np.arange(true)[None].repeat(b, 0) < 10,
        "masks": rng.uniform(size=(b, true, 112, 112)) < 0.5,
    }
    return {name: jnp.asarray(array) for name, array in arrays.items()}


def _step(graphdef):
    """Returns a step of SGD as in torch.optim.SGD, with momentum and weight decay, for parameters with a gradient."""

    def step(params, momentum, stats, batch, key):
        def total(params):
            return loss(flat.merge(graphdef, params, stats), batch, key)[0]

        frozen = flat.merge(graphdef, params, stats).frozen_parameters()
        value, grads = jax.value_and_grad(total)(params)
        for name in params:
            if not name.startswith(frozen):
                momentum[name] = MOMENTUM * momentum[name] + grads[name] + DECAY * params[name]
                params[name] = params[name] - RATE * momentum[name]
        return params, momentum, value

    return step


def _networks(arguments) -> list[Measurement]:
    import tempfile
    from pathlib import Path

    import torch

    config, batch = _config(arguments), _batch(arguments)
    theirs = _torchvision()
    model = MaskRCNN(config, rngs=nnx.Rngs(0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save(theirs.state_dict(), path)
        load(model, path, "torchvision")
    model.eval()
    graphdef, params, stats = flat.split(model)
    images = torch.tensor(np.asarray(batch["images"])).permute(0, 3, 1, 2).contiguous()
    shape = (arguments.height, arguments.width)
    macs = detector_summary(config, shape).macs * arguments.batch
    title = f"Mask R-CNN R50 {arguments.batch} x {shape[0]} x {shape[1]}"
    measurements, places = [], arguments.batch * shape[0] * shape[1]
    if "forward" in arguments.cases:
        forward = jax.jit(lambda *a: flat.merge(graphdef, *a[:2])(*a[2:])[:5])
        inputs = params, stats, batch["images"], batch["sizes"]
        found = int(forward(*inputs)[3].sum())
        print(f"{found} detections")

        def evaluate():
            with torch.no_grad():
                _features_and_heads(theirs.eval(), images, None)

        programs = {
            "ours": Program(
                lambda: jax.block_until_ready(forward(*inputs)), 2 * macs, compiled_bytes(forward, *inputs)
            ),
            "torchvision": Program(evaluate, 2 * macs),
        }
        measurements += compare(f"{title}: forward", places, programs, arguments.repeats)
    if "train_step" in arguments.cases:
        options = devices.options_for_memory()  # as `nl_jax.tasks.detection` trains
        step = jax.jit(_step(graphdef), donate_argnums=(0, 1), compiler_options=options)
        key = jax.random.key(0)
        state = [params, jax.tree.map(jnp.zeros_like, params)]

        def train():
            *state[:], value = step(*state, stats, batch, key)
            jax.block_until_ready(value)

        programs = {
            "ours": Program(train, 6 * macs),
            "torchvision": Program(_their_step(theirs, images, batch), 6 * macs),
        }
        measurements += compare(f"{title}: training step", places, programs, arguments.repeats)
    return measurements


def _torchvision():
    """Returns torchvision's network with frozen norms, and with random weights with which it detects objects."""
    import torch
    from torchvision.models import resnet50
    from torchvision.models.detection import MaskRCNN as TheirMaskRCNN
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.ops import FrozenBatchNorm2d

    torch.manual_seed(0)
    backbone = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    for name, buffer in backbone.named_buffers():
        if name.endswith("bn3.weight"):
            buffer.fill_(0.2)  # with larger scales the activations would grow from block to block
    model = TheirMaskRCNN(_resnet_fpn_extractor(backbone, 3), num_classes=81)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.weight.mul_(30)
    return model


def _features_and_heads(model, images, targets):
    """Runs torchvision's network without the normalisation of images and the pasting of masks."""
    from torchvision.models.detection.image_list import ImageList

    sizes = [tuple(images.shape[2:])] * len(images)
    features = model.backbone(images)
    proposals, losses = model.rpn(ImageList(images, sizes), features, targets)
    found, more = model.roi_heads(features, proposals, sizes, targets)
    return found, losses | more


def _their_step(model, images, batch):
    import torch

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], RATE, MOMENTUM, weight_decay=DECAY)
    targets = []
    for boxes, classes, valid in zip(*(np.asarray(batch[n]) for n in ("boxes", "classes", "valid")), strict=True):
        masks = torch.zeros(valid.sum(), *images.shape[2:], dtype=torch.uint8)
        targets.append(
            {"boxes": torch.tensor(boxes[valid]), "labels": torch.tensor(classes[valid]).long() + 1, "masks": masks}
        )

    def step():
        model.train()
        optimizer.zero_grad()
        sum(_features_and_heads(model, images, targets)[1].values()).backward()
        optimizer.step()

    return step


def _some_boxes(count, arguments, low=16, high=600):
    rng = np.random.default_rng(0)
    side = np.exp(rng.uniform(np.log(low), np.log(high), (count, 2)))
    centre = rng.uniform(0, 1, (count, 2)) * (arguments.width, arguments.height)
    limits = (arguments.width, arguments.height) * 2
    return np.clip(np.concatenate([centre - side / 2, centre + side / 2], axis=1), 0, limits).astype(np.float32)


def _nms(arguments, count=2000):
    import torch
    from torchvision.ops import nms as theirs

    boxes, scores = _some_boxes(count, arguments), np.random.default_rng(1).uniform(size=count).astype(np.float32)
    ours, inputs = jax.jit(lambda *a: nms(*a, 0.7)), tuple(map(jnp.asarray, (boxes, scores, np.ones(count, bool))))
    tensors = torch.tensor(boxes), torch.tensor(scores)
    operations = 15 * count**2 / 2
    programs = {
        "ours": Program(lambda: ours(*inputs).block_until_ready(), operations, compiled_bytes(ours, *inputs)),
        "torchvision": Program(lambda: theirs(*tensors, 0.7), operations),
    }
    return compare(f"NMS of {count}", count, programs, arguments.repeats)


def _roi_align(arguments, count=1000, size=7, channels=256):
    import torch
    from torchvision.ops import MultiScaleRoIAlign

    rng = np.random.default_rng(0)
    h, w = arguments.height, arguments.width
    maps = [rng.normal(size=(1, h // s, w // s, channels)).astype(np.float32) for s in (4, 8, 16, 32)]
    boxes = _some_boxes(count, arguments)
    scales = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
    ours = jax.jit(lambda maps, boxes: roi_align.roi_align_pyramid(maps, boxes, scales, size))
    inputs = [jnp.asarray(m) for m in maps], jnp.asarray(boxes)[None]
    theirs = MultiScaleRoIAlign(list("0123"), size, 2)
    tensors = {str(i): torch.tensor(m).permute(0, 3, 1, 2).contiguous() for i, m in enumerate(maps)}
    operations = 2 * 16 * count * size**2 * channels
    programs = {
        "ours": Program(lambda: ours(*inputs).block_until_ready(), operations, compiled_bytes(ours, *inputs)),
        "torchvision": Program(lambda: theirs(tensors, [torch.tensor(boxes)], [(h, w)]), operations),
    }
    return compare(f"RoIAlign of {count} at {size} x {size}", count, programs, arguments.repeats)


def _paste(arguments, count=100):
    import torch
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    masks = np.random.default_rng(0).uniform(size=(count, 28, 28)).astype(np.float32)
    boxes, shape = _some_boxes(count, arguments), (arguments.height, arguments.width)
    tensors = torch.tensor(masks)[:, None], torch.tensor(boxes)
    operations = 8 * count * arguments.height * arguments.width
    programs = {
        "ours": Program(lambda: paste(masks, boxes, shape), operations),
        "torchvision": Program(lambda: paste_masks_in_image(*tensors, shape) > 0.5, operations),
    }
    return compare(f"pasting {count} masks", count, programs, arguments.repeats)
