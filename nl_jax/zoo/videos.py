"""Published video classifiers: the paper's release, PySlowFast, mmaction2 and PyTorchVideo."""

from nl_jax.zoo.entry import Entry

VIEWS = (10, 3)
IMAGENET = {"input.mean": (0.485, 0.456, 0.406), "input.std": (0.229, 0.224, 0.225)}
SPARSE = {"data.frames": 8, "data.stride": 8}


def _release(name: str, row: str, geometry: str, file: str, top1: float, top5: float, **fields: object) -> Entry:
    """Returns a network of the Caffe2 release. Its test slides a 7x7 window over crops of 256 pixels."""
    return Entry(
        name=f"release_{name}",
        source="caffe2",
        address=f"https://dl.fbaipublicfiles.com/video-nonlocal/{file}.pkl",
        row=f"configs/kinetics.py:{row}",
        page="https://github.com/facebookresearch/video-nonlocal-net",
        fields={"model.geometry": geometry, "model.head_window": 7, "data.starts": "caffe2"} | fields,
        figures={"top1": top1, "top5": top5},
        views=VIEWS,
        licence="CC BY-NC 4.0",
    )


def _sparse(name: str, row: str, file: str, top1: float, top5: float) -> Entry:
    return _release(f"{name}_8x8", row, "caffe2_8", file, top1, top5, **SPARSE)


def _long(name: str, row: str, geometry: str, file: str, figures: tuple[float, float], clip: dict) -> Entry:
    """Returns a network with affine layers.

    The non-local blocks have no norm. The blocks of res3 sum over groups of four frames.
    """
    fields = {"model.norm": "affine"} | clip
    if row.startswith("nl5"):
        fields |= {"model.nonlocal_options.norm": "none", "model.nonlocal_time_group.res3": 4}
    return _release(name, row, geometry, file, *figures, **fields)


RELEASE = (
    _release("c2d_r50_32x2", "c2d_r50", "caffe2_32", "c2d_baseline_32x2_IN_pretrain_400k", 72.0, 90.0),
    _release("nl_c2d_r50_32x2", "nl5_c2d_r50", "caffe2_32", "c2d_nonlocal_32x2_IN_pretrain_400k", 73.9, 91.0),
    _release("i3d_r50_32x2", "i3d_r50", "caffe2_32", "i3d_baseline_32x2_IN_pretrain_400k", 73.6, 90.8),
    _release("nl_i3d_r50_32x2", "nl5_i3d_r50", "caffe2_32", "i3d_nonlocal_32x2_IN_pretrain_400k", 74.9, 91.6),
    _sparse("c2d_r50", "c2d_r50", "c2d_baseline_8x8_IN_pretrain_400k", 71.9, 90.0),
    _sparse("nl_c2d_r50", "nl5_c2d_r50", "c2d_nonlocal_8x8_IN_pretrain_400k", 74.4, 91.4),
    _sparse("i3d_r50", "i3d_r50", "i3d_baseline_8x8_IN_pretrain_400k", 73.4, 90.9),
    _sparse("nl_i3d_r50", "nl5_i3d_r50", "i3d_nonlocal_8x8_IN_pretrain_400k", 74.7, 91.6),
    _sparse("i3d_r50_300k", "i3d_r50", "i3d_baseline_8x8_IN_pretrain_300k", 73.2, 90.8),
    _sparse("i3d_r50_600k_4gpu", "i3d_r50", "i3d_baseline_8x8_IN_pretrain_600k_4gpu", 73.0, 90.4),
    _sparse("i3d_r50_300k_4gpu", "i3d_r50", "i3d_baseline_8x8_IN_pretrain_300k_4gpu", 72.0, 90.1),
    _long(
        "i3d_r50_128x1",
        "i3d_r50",
        "caffe2_32",
        "i3d_baseline_128x1_I3D_pretrain_400k",
        (75.2, 92.0),
        {"data.frames": 128, "data.stride": 1},
    ),
    _long(
        "nl_i3d_r50_128x1",
        "nl5_i3d_r50",
        "caffe2_32",
        "i3d_nonlocal_128x1_I3D_pretrain_400k",
        (76.5, 92.7),
        {"data.frames": 128, "data.stride": 1},
    ),
    _long(
        "i3d_r50_32x4",
        "i3d_r50",
        "caffe2_8",
        "i3d_baseline_32x4_I3D_pretrain_400k",
        (75.5, 92.0),
        {"data.frames": 32, "data.stride": 4},
    ),
    _long(
        "nl_i3d_r50_32x4",
        "nl5_i3d_r50",
        "caffe2_8",
        "i3d_nonlocal_32x4_I3D_pretrain_400k",
        (76.5, 92.6),
        {"data.frames": 32, "data.stride": 4},
    ),
)


def _slowfast(file: str, row: str, geometry: str, top1: float, top5: float) -> Entry:
    """Returns a network of PySlowFast's zoo: a Caffe2 pickle in PySlowFast's geometry."""
    return Entry(
        name={"C2D_NOPOOL_8x8_R50": "c2d_nopool_r50_8x8", "I3D_8x8_R50": "i3d_r50_8x8"}.get(file, "i3d_nln_r50_8x8"),
        source="caffe2",
        address=f"https://dl.fbaipublicfiles.com/pyslowfast/model_zoo/kinetics400/{file}.pkl",
        row=f"configs/kinetics.py:{row}",
        page="https://github.com/facebookresearch/SlowFast/blob/main/MODEL_ZOO.md",
        fields={"model.geometry": geometry, "model.head_window": 7, "data.starts": "slowfast"} | SPARSE,
        figures={"top1": top1, "top5": top5},
        views=VIEWS,
    )


SLOWFAST = (
    _slowfast("I3D_NLN_8x8_R50", "nl5_i3d_r50", "slowfast", 74.0, 91.1),
    _slowfast("I3D_8x8_R50", "i3d_r50", "slowfast", 73.5, 90.8),
    _slowfast("C2D_NOPOOL_8x8_R50", "c2d_r50", "slowfast_nopool", 67.2, 87.8),
)


def _mmaction2(name: str, model: str, row: str, figures: tuple[float, float], file: str, **fields: object) -> Entry:
    """Returns a network of mmaction2's zoo. The name of its file is the config, a date and the start of a SHA-256.

    Args:
      name: name of the entry without "mmaction2_".
      model: "i3d" or "c2d", the folder of the config.
      row: row of configs/kinetics.py.
      figures: top1 and top5 in percent.
      file: the name of the config without the common ending, then the date and the hash.
      fields: fields that differ from the row.
    """
    config, stamp = file.rsplit("_", 1)
    config, digest = f"{config}-100e_kinetics400-rgb", stamp.rsplit("-", 1)[-1]
    folder = f"https://download.openmmlab.com/mmaction/v1.0/recognition/{model}/{config}"
    return Entry(
        name=f"mmaction2_{name}",
        source="mmaction2",
        address=f"{folder}/{config}_{stamp}.pth",
        row=f"configs/kinetics.py:{row}",
        page=f"https://github.com/open-mmlab/mmaction2/tree/main/configs/recognition/{model}",
        fields={"data.starts": "mmaction2"} | IMAGENET | fields,
        figures={"top1": figures[0], "top5": figures[1]},
        views=VIEWS,
        digest=("sha256", digest),
    )


def _mmaction2_i3d(name: str, figures: tuple[float, float], file: str, pairwise: str = "") -> Entry:
    fields = {"model.geometry": "mmaction2"} | ({"model.nonlocal_options.pairwise": pairwise} if pairwise else {})
    row = "nl5_i3d_r50" if pairwise else "i3d_r50"
    return _mmaction2(name, "i3d", row, figures, f"i3d_imagenet-pretrained-r50{file}", **fields)


def _mmaction2_c2d(name: str, row: str, geometry: str, figures: tuple[float, float], file: str, clip: dict) -> Entry:
    """Returns a C2D network, tested on 224 crops of frames with a short side of 224 pixels."""
    fields = {"model.geometry": geometry, "data.test_short_side": 224, "data.test_crop": 224} | clip
    return _mmaction2(name, "c2d", row, figures, f"c2d_{file}", **fields)


MMACTION2 = (
    _mmaction2_i3d("i3d_r50_32x2", (73.47, 91.27), "_8xb8-32x2x1_20220812-e213c223"),
    _mmaction2_i3d(
        "nl_i3d_r50_dot_product_32x2", (74.80, 92.07), "-nl-dot-product_8xb8-32x2x1_20220812-8e1f2148", "dot_product"
    ),
    _mmaction2_i3d(
        "nl_i3d_r50_embedded_gaussian_32x2",
        (74.73, 91.80),
        "-nl-embedded-gaussian_8xb8-32x2x1_20220812-afd8f562",
        "embedded_gaussian",
    ),
    _mmaction2_i3d(
        "nl_i3d_r50_gaussian_32x2", (73.97, 91.33), "-nl-gaussian_8xb8-32x2x1_20220812-0c5cbf5a", "gaussian"
    ),
    _mmaction2_c2d(
        "c2d_r50_8x8", "c2d_r50", "caffe2_8", (73.89, 91.21), "r50-in1k-pre_8xb32-8x8x1_20221027-3ca304fa", SPARSE
    ),
    _mmaction2_c2d(
        "c2d_r50_16x4",
        "c2d_r50",
        "caffe2_8",
        (74.97, 91.91),
        "r50-in1k-pre_8xb32-16x4x1_20221027-5f382a43",
        {"data.frames": 16, "data.stride": 4},
    ),
    _mmaction2_c2d(
        "c2d_nopool_r50_8x8",
        "c2d_r50",
        "slowfast_nopool",
        (73.44, 91.00),
        "r50-in1k-pre-nopool_8xb32-8x8x1_20221027-e0227b22",
        SPARSE,
    ),
    _mmaction2_c2d(
        "c2d_nopool_r101_8x8",
        "c2d_r101",
        "slowfast_nopool",
        (74.97, 91.77),
        "r101-in1k-pre-nopool_8xb32-8x8x1_20221027-557bd8bc",
        SPARSE,
    ),
)


def _pytorchvideo(model: str, top1: float, top5: float) -> Entry:
    """Returns a network of PyTorchVideo's hub. Its figures were measured by PySlowFast's test."""
    return Entry(
        name=f"pytorchvideo_{model}_r50_8x8",
        source="pytorchvideo",
        address=f"https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/{model.upper()}_8x8_R50.pyth",
        row=f"configs/kinetics.py:{model}_r50",
        page="https://github.com/facebookresearch/pytorchvideo/blob/main/docs/source/model_zoo.md",
        fields={"model.geometry": "slowfast", "model.head_window": 7, "data.starts": "slowfast"} | SPARSE,
        figures={"top1": top1, "top5": top5},
        views=VIEWS,
    )


PYTORCHVIDEO = (_pytorchvideo("c2d", 71.46, 89.68), _pytorchvideo("i3d", 73.27, 90.70))

ENTRIES = (*RELEASE, *SLOWFAST, *MMACTION2, *PYTORCHVIDEO)
