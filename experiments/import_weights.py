r"""Makes a workdir from the weights of another program: to test them, or to start a run from them.

python -m experiments.import_weights --source=slowfast --path=I3D_NLN_8x8_R50.pyth --workdir=runs/i3d_nln \
    --config=configs/kinetics.py:nl5_i3d_r50 --config.model.geometry=slowfast
python -m experiments.evaluate --workdir=runs/i3d_nln --data=VIDEOS

The config must describe the network in the file; an error says which field to set. docs/weights.md lists the files.
"""

from pathlib import Path

import jax.numpy as jnp
import optax
from absl import flags
from flax import nnx
from ml_collections import config_flags

from experiments import command_line
from nl_jax.errors import InputError
from nl_jax.models import ResNetConfig, VideoResNet, flat
from nl_jax.training import workdir
from nl_jax.training.checkpoint import Checkpoints
from nl_jax.training.setup import make_resnet_config
from nl_jax.training.state import TrainState
from nl_jax.weights import SOURCES, Report, load

CONFIG = config_flags.DEFINE_config_file("config", None, "FILE.py or FILE.py:ROW of the network", lock_config=True)
SOURCE = flags.DEFINE_enum("source", None, SOURCES, "whose file it is; torchvision reads timm's too", required=True)
PATH = flags.DEFINE_string("path", None, "the file: .pkl, .pyth, .pth or .safetensors", required=True)
WORKDIR = flags.DEFINE_string("workdir", None, "a new directory, for evaluate and start.workdir", required=True)
NUM_CLASSES = flags.DEFINE_integer("num_classes", None, "classes of the network; the config's by default", 1)
CLASSES = flags.DEFINE_string("classes", None, "a text file of class names, one a line; 0, 1, .. by default")
CHECK_GEOMETRY = flags.DEFINE_bool("check_geometry", True, "refuse weights that were trained with another geometry")
INFLATE_2D = flags.DEFINE_bool("inflate_2d", False, "inflate kernels of one plane in time, as torchvision's always are")
flags.mark_flag_as_required("config")


def main() -> None:
    directory = Path(WORKDIR.value)
    if (directory / "config.json").exists():
        raise InputError(f"--workdir: {directory} holds a run already; choose another")
    config = CONFIG.value
    classes = _classes(config.num_classes)
    config.num_classes = len(classes)
    config.input.mean, config.input.std = SOURCES[SOURCE.value].mean, SOURCES[SOURCE.value].std
    model, report = _load(make_resnet_config(config.model, len(classes)), config.seed)
    _, params, batch_stats = flat.split(model)
    # No optimiser: what a run that starts here takes over are the weights.
    new = TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optax.identity().init(params))
    workdir.write(directory, config, classes)
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(new, {})
    print(f"{PATH.value}: {report}")
    print(f"wrote {directory}: test it with experiments.evaluate, or start from it with --config.start.workdir")


def _load(config: ResNetConfig, seed: int) -> tuple[VideoResNet, Report]:
    """The network with the weights of the file, initialised only if the file leaves something to initialise."""

    def build():
        return VideoResNet(config, rngs=nnx.Rngs(seed))

    options = {"check_geometry": CHECK_GEOMETRY.value, "inflate_2d": INFLATE_2D.value}
    model = nnx.eval_shape(build)
    report = load(model, PATH.value, SOURCE.value, **options)
    if report.left_at_init:
        model = build()
        load(model, PATH.value, SOURCE.value, **options)
    return model, report


def _classes(in_config: int) -> tuple[str, ...]:
    """The names of --classes, or as many numbers as --num_classes or else the config say."""
    count = NUM_CLASSES.value
    if CLASSES.value is None:
        if not (count or in_config):
            raise InputError("--num_classes: how many? The config does not say")
        return tuple(map(str, range(count or in_config)))
    path = Path(CLASSES.value)
    if not path.is_file():
        raise InputError(f"--classes: there is no file {path}")
    names = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    if not names or len(set(names)) < len(names):
        raise InputError(f"--classes: {path} has {len(names)} names, {len(set(names))} of them different")
    if count not in (None, len(names)):
        raise InputError(f"--num_classes={count}, but {path} has {len(names)} names")
    return names


if __name__ == "__main__":
    command_line.run(main)
