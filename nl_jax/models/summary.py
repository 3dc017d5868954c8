"""The layers of a network and their cost, computed from the network itself without allocating it."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from nl_jax.models import flat
from nl_jax.models.detection.config import DetectorConfig
from nl_jax.models.detection.mask_rcnn import MaskRCNN
from nl_jax.models.resnet import VideoResNet
from nl_jax.models.resnet_config import ResNetConfig
from nl_jax.ops import devices

try:
    from jax.extend.core import jaxprs_in_params
except ImportError:  # its place before JAX 0.8
    from jax.core import jaxprs_in_params


@dataclasses.dataclass(frozen=True)
class Layer:
    """One named intermediate of the network.

    Attributes:
      name: name of the intermediate.
      shape: shape of the output for one clip or image, without the batch axis.
      parameters: number of learned values.
      macs: multiply-adds for one clip or image.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    macs: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """The layers of a network in the order they run, and one line on every non-local block. `str` gives a table.

    Attributes:
      title: one line on the network.
      layers: the layers, in the order they run.
      blocks: one line on every non-local block.
    """

    title: str
    layers: tuple[Layer, ...]
    blocks: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """The number of learned values. Running statistics and the frozen norm scales of a detector are not counted."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        """The multiply-adds of one clip or image, with pairwise products.

        Norms, activations and pools are not counted.
        """
        return sum(layer.macs for layer in self.layers)

    def __str__(self) -> str:
        total = Layer("total", (), self.parameters, self.macs)
        rows = [
            (layer.name, " x ".join(map(str, layer.shape)), f"{layer.parameters:,}", f"{layer.macs / 1e6:,.1f}")
            for layer in (*self.layers, total)
        ]
        rows = [("layer", "output", "parameters", "M multiply-adds"), *rows]
        width = [max(len(row[column]) for row in rows) for column in range(4)]
        table = [
            f"{name:{width[0]}}  {shape:{width[1]}}  {count:>{width[2]}}  {macs:>{width[3]}}"
            for name, shape, count, macs in rows
        ]
        return "\n".join([self.title, *table, *(self.blocks or ("non-local blocks: none",))])


def summarize(config: ResNetConfig, video_shape: tuple[int, int, int]) -> Summary:
    """Returns the summary of the network that `config` gives, for clips of (t, h, w).

    The function counts the multiply-adds of the matrix products and convolutions of the traced computation. So a dot
    product that sums over its keys first is counted in this order.

    Raises:
      InputError: for a choice in the configuration that does not exist.
    """
    model = nnx.eval_shape(lambda: VideoResNet(config, rngs=nnx.Rngs(0)))
    layers, out = _layers(model, lambda model, video: model(video)[1], _layer_of, _shape(*video_shape, 3))
    kind = "C2D" if config.inflate is None else f"I3D {config.inflate}"
    t, h, w = video_shape
    title = f"{kind} ({_stages(config)}), width {config.width}, geometry {config.geometry}, clips of {t} x {h} x {w}"
    return Summary(title, layers, _blocks(model, out))


def detector_summary(config: DetectorConfig, image_shape: tuple[int, int], rois: int | None = None) -> Summary:
    """Returns the summary of the detector that `config` gives, for images of (h, w).

    The summary counts the multiply-adds of the backbone, the pyramid and the heads. The mask and keypoint heads see
    `config.detections` boxes.

    Args:
      config: configuration of the detector.
      image_shape: height and width in pixels, multiples of 32.
      rois: number of boxes that the box head sees. The default is `config.proposals`.

    Raises:
      InputError: for a choice in the configuration that does not exist, and for sides that are not multiples of 32.
    """
    rois = rois or config.proposals
    model = nnx.eval_shape(lambda: MaskRCNN(config, rngs=nnx.Rngs(0)))

    def forward(model, image):
        sizes = jnp.asarray([image_shape], jnp.int32)
        out = model.features(image, sizes)
        with jax.named_scope("box_head"):
            out["box_head"], _ = model.classify(out, jnp.zeros((1, rois, 4)))
        if model.mask_head is not None:
            with jax.named_scope("mask_head"):
                boxes = jnp.zeros((1, config.detections, 4))
                out["mask_head"] = model.outline(out, boxes, jnp.zeros((1, config.detections), jnp.int32))
        if model.keypoint_head is not None:
            heatmaps, between = model.locate(out, jnp.zeros((1, config.detections, 4)))
            out |= between | {"heatmaps": heatmaps}
        # The pyramid and the RPN have one line each, and their layers run on every level.
        out["fpn"], out["rpn"] = out["P2"], out["objectness_P2"]
        names = [
            name
            for name in out
            if not name.startswith(("P", "sizes", "objectness", "deltas", "fpn", "rpn", "box", "mask"))
        ]
        of_keypoints = [name for name in names if name.startswith(("keypoint", "heatmaps"))]
        names = [name for name in names if name not in of_keypoints] + ["fpn", "rpn", "box_head"]
        names += ["mask_head"] * (model.mask_head is not None) + of_keypoints
        return {name: out[name] for name in names}

    frozen = tuple(name for name in model.frozen_parameters() if "norm" in name)
    layers, out = _layers(model, forward, partial(_detector_layer_of, config), _shape(*image_shape, 3), frozen)
    backbone = config.resolved_backbone()
    kind = "Keypoint R-CNN" if config.keypoints else "Mask R-CNN" if config.masks else "Faster R-CNN"
    h, w = image_shape
    title = (
        f"{kind} ({_stages(backbone)}), width {backbone.width}, {config.num_classes} classes, "
        f"images of {h} x {w}, {rois} proposals"
    )
    return Summary(title, layers, _blocks(model, out))


def _shape(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *shape), jnp.float32)


def _layers(
    model: nnx.Module,
    call: Callable,
    layer_of: Callable[[str], str],
    value: jax.ShapeDtypeStruct,
    uncounted: tuple[str, ...] = (),
) -> tuple[tuple[Layer, ...], dict[str, jax.ShapeDtypeStruct]]:
    """Returns one layer for each value that `call(model, value)` returns by name, and the shapes of these values.

    Parameters whose names start with one of `uncounted` are not counted.
    """
    graphdef, params, batch_stats = flat.split(model)
    names = []

    def forward(params, batch_stats, value):
        model = flat.merge(graphdef, params, batch_stats)
        model.eval()
        out = call(model, value)
        names.extend(out)  # in the order they run, because JAX returns a sorted dict
        return out

    # The count uses the CPU's forms on every platform. A GPU pads the stem, and a cuDNN kernel shows no products.
    with devices.compiling_for("cpu"):
        jaxpr, out = jax.make_jaxpr(forward, return_shape=True)(params, batch_stats, value)
    macs = dict.fromkeys(names, 0)
    _count_macs(jaxpr.jaxpr, 1, "", macs)
    parameters = dict.fromkeys(names, 0)
    for name, array in params.items():
        if not (uncounted and name.startswith(uncounted)):
            parameters[layer_of(name)] += math.prod(array.shape)
    return tuple(Layer(name, out[name].shape[1:], parameters[name], macs[name]) for name in names), out


def _stages(config: ResNetConfig) -> str:
    return ", ".join(f"{stage} x{count}" for stage, count in config.stages().items())


def _blocks(model: VideoResNet | MaskRCNN, out: dict[str, jax.ShapeDtypeStruct]) -> tuple[str, ...]:
    # A block in the keypoint head sees one box at a time: (b,n,s,s,c) holds n images there.
    shapes = {name: out[name].shape[1:] if name.startswith("keypoint") else out[name].shape for name in out}
    return tuple(_describe(name, block, shapes[name]) for name, block in model.nonlocal_blocks().items())


def _describe(name, block, shape) -> str:
    positions = " x ".join(map(str, shape[1:-1]))
    keys = math.prod(block.key_shape(shape))
    return (
        f"non-local block {name}: {block.pairwise}, {block.axes}, "
        f"{positions} positions of {shape[-1]} channels, each over {keys}"
    )


def _layer_of(name: str) -> str:
    """Returns the layer of a parameter: "res3/1/nonlocal_block/theta/kernel" is in res3_1_nonlocal."""
    first, second, *rest = name.split("/")
    if first == "classifier":
        return "logits"
    if not first.startswith("res"):
        return "conv1"
    return f"{first}_{second}_nonlocal" if rest[0] == "nonlocal_block" else f"{first}_{second}"


def _detector_layer_of(config: DetectorConfig, name: str) -> str:
    """Returns the layer of a detector's parameter: "backbone/res3/1/conv1/kernel" is in res3_1, "fpn/.." in fpn."""
    part, _, rest = name.partition("/")
    if part == "keypoint_head":
        kind, number, *_ = rest.split("/")
        if kind == "convs":
            return f"keypoint_{int(number) + 1}"
        return "heatmaps" if kind == "deconv" else f"keypoint_{config.keypoint_blocks[int(number)]}_nonlocal"
    return _layer_of(rest) if part == "backbone" else part


def _count_macs(jaxpr, times: int, scope: str, macs: dict[str, int]) -> None:
    """Adds the multiply-adds of every matrix product and convolution to `macs`, at the layer that its scope names."""
    for equation in jaxpr.eqns:
        inner = scope or str(equation.source_info.name_stack).split("/")[0]
        operands = [variable.aval for variable in equation.invars]
        outputs = math.prod(equation.outvars[0].aval.shape)
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            macs[inner] += times * outputs * math.prod(operands[0].shape[axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = operands[1].shape
            features = equation.params["dimension_numbers"].rhs_spec[0]
            macs[inner] += times * outputs * math.prod(kernel) // kernel[features]
        else:
            repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
            for sub in jaxprs_in_params(equation.params):
                _count_macs(sub, times * repeats, inner, macs)
