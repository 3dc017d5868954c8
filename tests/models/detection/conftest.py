"""torchvision's Mask R-CNN and Keypoint R-CNN, narrow, with random weights drawn by name, and their outputs.

`make_fixtures.py` keeps a part of the outputs in small files, so that tests need no torchvision.
"""

import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

FIXTURES = Path(__file__).parent / "fixtures"

WIDTH, FPN_CHANNELS, BOX_CHANNELS, MASK_CHANNELS, CLASSES = 8, 16, 32, 8, 5
KEYPOINT_CHANNELS, KEYPOINTS = 8, 3
# Blocks of each stage, groups and width_per_group of the 3x3. The last network has a keypoint head, the others masks.
NETWORKS = {"r50": ((1, 2, 2, 1), 1, 64), "resnext": ((1, 1, 2, 1), 4, 32), "keypoint": ((1, 1, 1, 1), 1, 64)}
ANCHOR_SIDES = (16, 32, 64, 128, 256)
SIZES = {"wide": (192, 320), "high": (256, 160)}
LIMITS = {"pre_nms": 150, "proposals": 100, "detections": 30, "rpn_samples": 64, "roi_samples": 48}


def telling(name, shape):
    """Returns a random float32 array for a name.

    Kernels keep the scale of their inputs, and statistics are not 0 or 1.
    """
    return _telling(name, shape).astype(np.float32)


def _telling(name, shape):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) == 1:
        is_scale = name.endswith("weight")
        is_last = ".bn3." in name  # small, because blocks are added up
        return rng.uniform(0.5, 1.5, shape) * (0.3 if is_last else 1) if is_scale else 0.1 * rng.normal(size=shape)
    fan_in = np.prod(shape[1:]) if "conv5_mask" not in name else shape[0]
    gains = {"inner_blocks": 0.2, "layer_blocks": 1, "cls_logits": 1, "rpn.head.bbox_pred": 0.3, "bbox_pred": 1}
    gain = next((value for part, value in gains.items() if part in name), 1.4)
    return gain * rng.normal(size=shape) / np.sqrt(fan_in)


def images(sizes, seed=0):
    """Returns smooth noise (b,h,w,3), the same for torchvision and our network."""
    rng = np.random.default_rng(seed)
    h, w = sizes
    coarse = rng.normal(size=(2, h // 16, w // 16, 3)).repeat(16, 1).repeat(16, 2)
    return coarse + 0.3 * rng.normal(size=(2, h, w, 3))


def truth(sizes, seed=0):
    """Returns four true boxes and classes (from 0) for each of two images."""
    rng = np.random.default_rng(seed + 1)
    h, w = sizes
    side = rng.uniform(30, 120, (2, 4, 2))
    corner = rng.uniform(0, 1, (2, 4, 2)) * ([w, h] - side)
    return np.concatenate([corner, corner + side], axis=-1), rng.integers(0, CLASSES, (2, 4))


def keypoints(boxes, seed=0):
    """Returns float32 (2,4,k,3) for boxes (2,4,4): in the box or a little outside, some not labelled."""
    rng = np.random.default_rng(seed + 3)
    corner, end = boxes[..., None, :2], boxes[..., None, 2:]
    at = corner + rng.uniform(-0.1, 1.1, (2, 4, KEYPOINTS, 2)) * (end - corner)
    return np.concatenate([at, rng.integers(0, 3, (2, 4, KEYPOINTS, 1))], axis=-1).astype(np.float32)


def mask_bits(count, size=28, seed=0):
    """Returns the targets of `count` masks."""
    return np.random.default_rng(seed + 2).uniform(size=(count, size, size)) < 0.4


def build(network, frozen=True, dtype="float64"):
    """Builds torchvision's narrow Mask or Keypoint R-CNN from its own layers, in evaluation mode."""
    import torch
    from torch import nn
    from torchvision.models.detection import KeypointRCNN, MaskRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.models.resnet import Bottleneck
    from torchvision.ops import FrozenBatchNorm2d
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    counts, groups, width_per_group = NETWORKS[network]
    norm = FrozenBatchNorm2d if frozen else nn.BatchNorm2d
    body = nn.ModuleDict(
        {
            "conv1": nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False),
            "bn1": norm(WIDTH),
            "relu": nn.ReLU(),
            "maxpool": nn.MaxPool2d(3, 2, 1),
        }
    )
    features = WIDTH
    for stage, count in enumerate(counts):
        planes, blocks = WIDTH * 2**stage, []
        for block in range(count):
            stride = 2 if stage and not block else 1
            options = {"groups": groups, "base_width": width_per_group, "norm_layer": norm}
            shortcut = None
            if not block:
                shortcut = nn.Sequential(nn.Conv2d(features, 4 * planes, 1, stride, bias=False), norm(4 * planes))
            blocks.append(Bottleneck(features, planes, stride, shortcut, **options))
            features = 4 * planes
        body[f"layer{stage + 1}"] = nn.Sequential(*blocks)
    body = nn.Sequential(OrderedDict(body.items()))
    backbone = BackboneWithFPN(
        body,
        {f"layer{i + 1}": str(i) for i in range(4)},
        [4 * WIDTH * 2**i for i in range(4)],
        FPN_CHANNELS,
        LastLevelMaxPool(),
    )
    ratios = ((0.5, 1.0, 2.0),) * 5
    if network == "keypoint":
        program, head = KeypointRCNN, KeypointRCNNHeads(FPN_CHANNELS, (KEYPOINT_CHANNELS,) * 8)
        heads = {"keypoint_head": head, "keypoint_predictor": KeypointRCNNPredictor(KEYPOINT_CHANNELS, KEYPOINTS)}
    else:
        program, head = MaskRCNN, MaskRCNNHeads(FPN_CHANNELS, (MASK_CHANNELS,) * 4, 1)
        heads = {"mask_head": head, "mask_predictor": MaskRCNNPredictor(MASK_CHANNELS, MASK_CHANNELS, CLASSES + 1)}
    model = program(
        backbone,
        rpn_anchor_generator=AnchorGenerator(tuple((side,) for side in ANCHOR_SIDES), ratios),
        box_head=TwoMLPHead(FPN_CHANNELS * 49, BOX_CHANNELS),
        box_predictor=FastRCNNPredictor(BOX_CHANNELS, CLASSES + 1),
        **heads,
        rpn_pre_nms_top_n_test=LIMITS["pre_nms"],
        rpn_post_nms_top_n_test=LIMITS["proposals"],
        rpn_pre_nms_top_n_train=LIMITS["pre_nms"],
        rpn_post_nms_top_n_train=LIMITS["proposals"],
        box_detections_per_img=LIMITS["detections"],
        rpn_batch_size_per_image=LIMITS["rpn_samples"],
        box_batch_size_per_image=LIMITS["roi_samples"],
    )
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.tensor(telling(name, tuple(tensor.shape))))
    return model.to(getattr(torch, dtype)).eval()


def evaluate(model, array):
    """Returns every intermediate of torchvision's network by our name, channels last."""
    import torch
    from torchvision.models.detection.image_list import ImageList

    dtype = next(model.parameters()).dtype
    x = torch.tensor(array, dtype=dtype).permute(0, 3, 1, 2)
    sizes = [tuple(x.shape[2:])] * len(x)
    out = {}
    with torch.no_grad():
        pyramid = model.backbone(x)
        for name, level in zip(("P2", "P3", "P4", "P5", "P6"), pyramid.values(), strict=True):
            out[name] = level.permute(0, 2, 3, 1)
        objectness, deltas = model.rpn.head(list(pyramid.values()))
        for i, (scores, moves) in enumerate(zip(objectness, deltas, strict=True), start=2):
            out[f"objectness_P{i}"] = scores.permute(0, 2, 3, 1).flatten(1)
            out[f"deltas_P{i}"] = moves.permute(0, 2, 3, 1).reshape(len(x), -1, 4)
        proposals, scores = _proposals(model, ImageList(x, sizes), pyramid)
        out["proposals"], out["proposal_scores"] = torch.stack(proposals), torch.stack(scores)
        heatmaps = []
        if model.roi_heads.has_keypoint():
            model.roi_heads.keypoint_predictor.register_forward_hook(lambda *call: heatmaps.append(call[2]))
        found, _ = model.roi_heads(pyramid, proposals, sizes)
    for name in ("boxes", "scores", "labels", "masks", "keypoints", "keypoints_scores"):
        if name in found[0]:
            out[name] = torch.stack([image[name] for image in found])
    out["classes"] = out.pop("labels") - 1
    if "masks" in out:
        out["masks"] = out["masks"][:, :, 0]
    else:
        out["heatmaps"] = heatmaps[0]
        out["keypoints"][..., 2] = out.pop("keypoints_scores")
    return {name: tensor.numpy() for name, tensor in out.items()}


def _proposals(model, image_list, pyramid):
    """Returns boxes with their scores, which the network itself does not return."""
    kept = []
    original = model.rpn.filter_proposals

    def keep(*arguments):
        kept.append(original(*arguments))
        return kept[-1]

    model.rpn.filter_proposals = keep
    try:
        model.rpn(image_list, pyramid)
    finally:
        model.rpn.filter_proposals = original
    return kept[0]


def train(model, array, boxes, classes):
    """Returns torchvision's losses, samples, and gradients by its names. Mask targets are `mask_bits`."""
    import torch
    from torchvision.models.detection import roi_heads
    from torchvision.models.detection.image_list import ImageList

    dtype = next(model.parameters()).dtype
    x = torch.tensor(array, dtype=dtype).permute(0, 3, 1, 2)
    sizes = [tuple(x.shape[2:])] * len(x)
    targets = [
        {
            "boxes": torch.tensor(b, dtype=dtype),
            "labels": torch.tensor(c + 1),
            "masks": torch.zeros(len(c), 1, 1, dtype=torch.uint8),
            "keypoints": torch.tensor(points),
        }
        for b, c, points in zip(boxes, classes, keypoints(boxes), strict=True)
    ]
    model.train()
    torch.manual_seed(0)
    sampled, chosen, masks = [], [], []
    sampler, select = model.rpn.fg_bg_sampler, model.roi_heads.select_training_samples

    def keep_sample(labels):
        sampled.append(sampler(labels))
        return sampled[-1]

    def keep_choice(*arguments):
        chosen.append(select(*arguments))
        return chosen[-1]

    def project(gt_masks, proposals, matched, size):
        start = sum(len(m) for m in masks)
        masks.append(proposals)
        return torch.tensor(mask_bits(start + len(proposals))[start:]).to(dtype)

    original, roi_heads.project_masks_on_boxes = roi_heads.project_masks_on_boxes, project
    model.rpn.fg_bg_sampler, model.roi_heads.select_training_samples = keep_sample, keep_choice
    try:
        pyramid = model.backbone(x)
        proposals, losses = model.rpn(ImageList(x, sizes), pyramid, targets)
        _, more = model.roi_heads(pyramid, proposals, sizes, targets)
    finally:
        roi_heads.project_masks_on_boxes = original
        model.rpn.fg_bg_sampler, model.roi_heads.select_training_samples = sampler, select
    losses |= more
    sum(losses.values()).backward()
    positive, negative = (torch.stack(list(a)).bool().numpy() for a in sampled[0])
    rois, matched, labels, _ = chosen[0]
    out = {f"loss/{name}": value.detach().numpy() for name, value in losses.items()}
    out |= {"rpn_positive": positive, "rpn_negative": negative}
    for name, values in (("rois", rois), ("matched", matched), ("labels", labels)):
        out |= {f"{name}/{i}": value.detach().numpy() for i, value in enumerate(values)}
    return out, {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}


def some_of(name, array, count):
    """Returns up to `count` values of an array, at the same places for the same name and shape."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    flat = np.asarray(array).ravel()
    return flat if flat.size <= count else flat[rng.choice(flat.size, count, replace=False)]


WHOLE = ("proposals", "proposal_scores", "boxes", "scores", "classes", "keypoints")


def kept(outputs, count):
    """Returns the part of the outputs that a file keeps, by name."""
    return {name: array if name in WHOLE else some_of(name, array, count) for name, array in outputs.items()}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Returns checkpoint(network, reference): the path of a file with the weights of this network."""
    torch = pytest.importorskip("torch")

    def write(network, reference):
        path = tmp_path_factory.mktemp("checkpoint") / f"{network}.pth"
        shapes = {str(name): tuple(map(int, shape.split())) for name, shape in reference["shapes"]}
        torch.save({name: torch.tensor(telling(name, shape)) for name, shape in shapes.items()}, path)
        return path

    return write
