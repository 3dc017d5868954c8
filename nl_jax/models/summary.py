"""What a network is made of and what it costs, computed from the network itself without allocating it."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import jaxprs_in_params

from nl_jax.models import flat
from nl_jax.models.resnet import VideoResNet
from nl_jax.models.resnet_config import ResNetConfig


@dataclasses.dataclass(frozen=True)
class Layer:
    """One named intermediate of the network: its output shape, parameters and multiply-adds for one clip."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    macs: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """The layers of a network in the order they run, and a line on every non-local block."""

    title: str
    layers: tuple[Layer, ...]
    blocks: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Numbers that are learnt; running statistics are not counted."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-adds of one clip, pairwise products included; norms, activations and pools are not counted."""
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


def summary(config: ResNetConfig, video_shape: tuple[int, int, int]) -> Summary:
    """The summary of the network that `config` gives, for clips of (t, h, w).

    Multiply-adds are those of the matrix products and convolutions that run, counted in the traced computation, so a
    dot product summed over its keys first costs what it costs in that order.

    Raises:
      InputError: when the configuration asks for something that does not exist.
    """
    model = nnx.eval_shape(lambda: VideoResNet(config, rngs=nnx.Rngs(0)))
    graphdef, params, batch_stats = flat.split(model)

    names = []

    def forward(params, batch_stats, video):
        model = flat.merge(graphdef, params, batch_stats)
        model.eval()
        out = model(video)[1]
        names.extend(out)  # in the order they run; what JAX returns is sorted
        return out

    video = jax.ShapeDtypeStruct((1, *video_shape, 3), jnp.float32)
    jaxpr, out = jax.make_jaxpr(forward, return_shape=True)(params, batch_stats, video)
    macs = dict.fromkeys(names, 0)
    _count_macs(jaxpr.jaxpr, 1, "", macs)
    parameters = dict.fromkeys(names, 0)
    for name, array in params.items():
        parameters[_layer_of(name)] += math.prod(array.shape)
    layers = [Layer(name, out[name].shape[1:], parameters[name], macs[name]) for name in names]

    kind = "C2D" if config.inflate is None else f"I3D {config.inflate}"
    stages = ", ".join(f"{stage} x{count}" for stage, count in config.stages().items())
    t, h, w = video_shape
    title = f"{kind} ({stages}), width {config.width}, geometry {config.geometry}, clips of {t} x {h} x {w}"
    blocks = [_describe(name, block, out[name].shape) for name, block in model.nonlocal_blocks().items()]
    return Summary(title, tuple(layers), tuple(blocks))


def _describe(name, block, shape) -> str:
    positions = " x ".join(map(str, shape[1:-1]))
    keys = math.prod(block.key_shape(shape))
    return (
        f"non-local block {name}: {block.pairwise}, {block.axes}, "
        f"{positions} positions of {shape[-1]} channels, each over {keys}"
    )


def _layer_of(name: str) -> str:
    """The layer that a parameter belongs to: "res3/1/nonlocal_block/theta/kernel" is in res3_1_nonlocal."""
    first, second, *rest = name.split("/")
    if first == "classifier":
        return "logits"
    if not first.startswith("res"):
        return "conv1"
    return f"{first}_{second}_nonlocal" if rest[0] == "nonlocal_block" else f"{first}_{second}"


def _count_macs(jaxpr, times: int, scope: str, macs: dict[str, int]) -> None:
    """Adds the multiply-adds of every matrix product and convolution to the layer in whose scope it stands."""
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
