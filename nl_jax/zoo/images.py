"""Published networks of images: ImageNet ResNets as starting points, and COCO detectors."""

from nl_jax.zoo.entry import Entry

TORCHVISION = "https://docs.pytorch.org/vision/stable/models.html"
DETECTRON2 = "https://github.com/facebookresearch/detectron2/blob/main/MODEL_ZOO.md"
RELEASE = "https://github.com/facebookresearch/video-nonlocal-net"
IMAGENET = {"input.mean": (0.485, 0.456, 0.406), "input.std": (0.229, 0.224, 0.225)}


def _torchvision(depth: int, version: int, digest: str, top1: float, top5: float) -> Entry:
    """Returns a ResNet of torchvision, tested on a 224 crop of an image with a short side of 256 or 232 pixels."""
    fields = {"data.test_short_side": 232} if version == 2 else {}
    if depth == 152:
        fields["model.depth"] = 152
    return Entry(
        name=f"torchvision_resnet{depth}_v{version}",
        source="torchvision",
        address=f"https://download.pytorch.org/models/resnet{depth}-{digest}.pth",
        row=f"configs/kinetics.py:imagenet_r{min(depth, 101)}",
        page=TORCHVISION,
        fields=IMAGENET | fields,
        classes="imagenet1k",
        figures={"top1": top1, "top5": top5},
        digest=("sha256", digest),
    )


def _release(depth: int) -> Entry:
    """Returns a starting network of the release. Its page gives no figure and does not mention a classifier."""
    return Entry(
        name=f"release_imagenet_r{depth}",
        source="caffe2",
        address="https://dl.fbaipublicfiles.com/video-nonlocal/pretrained_model.tar.gz",
        member=f"r{depth}_pretrain_c2_model_iter450450_clean.pkl",
        row=f"configs/kinetics.py:imagenet_r{depth}",
        page=RELEASE,
        fields={"model.geometry": "slowfast_nopool"},  # the geometry of an image network; the page does not give it
        classes="",
        licence="CC BY-NC 4.0",
    )


def _detectron2(
    model: str, number: int, digest: str, box_ap: float, mask_ap: float | None = None, **fields: object
) -> Entry:
    """Returns a detector of detectron2's zoo. The name of its file holds the start of its MD5.

    Most of these detectors start from the first published ResNets. These have their stride on the 1x1 convolution, and
    their inputs are pixels from 0 to 255 minus a mean.
    """
    folder = "COCO-InstanceSegmentation" if mask_ap else "COCO-Detection"
    usual = {
        "model.stride_on_1x1": True,
        "detector.aligned": True,
        "detector.round_anchors": False,
        "input.mean": (123.675 / 255, 116.28 / 255, 103.53 / 255),
        "input.std": (1 / 255, 1 / 255, 1 / 255),
    }
    if not mask_ap:
        usual["detector.masks"] = False
    return Entry(
        name="detectron2_" + model.replace("R_", "R").replace("X_", "X").lower(),
        source="detectron2",
        address=f"https://dl.fbaipublicfiles.com/detectron2/{folder}/{model}/{number}/model_final_{digest}.pkl",
        row=f"configs/table5.py:{'r50' if 'R_50' in model else 'r101'}",
        page=DETECTRON2,
        fields=usual | fields,
        classes="coco80",
        figures={"box_ap": box_ap} | ({"mask_ap": mask_ap} if mask_ap else {}),
        digest=("md5", digest),
        licence="CC BY-SA 3.0",
    )


RESNEXT = {
    "model.groups": 32,
    "model.width_per_group": 8,
    "model.stride_on_1x1": False,
    "input.std": (58.395 / 255, 57.12 / 255, 57.375 / 255),
}

ENTRIES = (
    _torchvision(50, 1, "0676ba61", 76.130, 92.862),
    _torchvision(50, 2, "11ad3fa6", 80.858, 95.434),
    _torchvision(101, 1, "63fe2227", 77.374, 93.546),
    _torchvision(101, 2, "cd907fc2", 81.886, 95.780),
    _torchvision(152, 1, "394f9c45", 78.312, 94.046),
    _torchvision(152, 2, "f82ba261", 82.284, 96.002),
    _release(50),
    _release(101),
    Entry(
        name="torchvision_maskrcnn_resnet50_fpn",
        source="torchvision",
        address="https://download.pytorch.org/models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
        row="configs/table5.py:r50",
        page=TORCHVISION,
        fields={"model.norm_epsilon": 0.0, "detector.floor_strides": True} | IMAGENET,
        classes="coco90",
        figures={"box_ap": 37.9, "mask_ap": 34.6},
        digest=("sha256", "bf2d0c1e"),
    ),
    _detectron2("faster_rcnn_R_50_FPN_1x", 137257794, "b275ba", 37.9),
    _detectron2("faster_rcnn_R_50_FPN_3x", 137849458, "280758", 40.2),
    _detectron2("faster_rcnn_R_101_FPN_3x", 137851257, "f6e8b1", 42.0),
    _detectron2("mask_rcnn_R_50_FPN_1x", 137260431, "a54504", 38.6, 35.2),
    _detectron2("mask_rcnn_R_50_FPN_3x", 137849600, "f10217", 41.0, 37.2),
    _detectron2("mask_rcnn_R_101_FPN_3x", 138205316, "a3ec72", 42.9, 38.6),
    _detectron2("mask_rcnn_X_101_32x8d_FPN_3x", 139653917, "2d9806", 44.3, 39.5, **RESNEXT),
)
