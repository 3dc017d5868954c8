r"""Makes a workdir from the weights of another program. The workdir can be tested, or a run can start from it.

python -m experiments.import_weights --model=i3d_nln_r50_8x8 --workdir=runs/i3d_nln
python -m experiments.import_weights --path=FILE --workdir=runs/mine \
    --config=configs/kinetics.py:nl5_i3d_r50 --config.model.geometry=slowfast
python -m experiments.evaluate --workdir=runs/i3d_nln --data=VIDEOS

With --model the program downloads a published network once, or reads it from the file of --path. For any other file,
--config must describe the network. If it does not, the error names the field to set. docs/weights.md lists the files.
"""

import jax.numpy as jnp
import optax
from absl import flags

from experiments import command_line, foreign
from nl_jax.errors import InputError
from nl_jax.models import flat
from nl_jax.places import place
from nl_jax.training import workdir
from nl_jax.training.checkpoint import Checkpoints
from nl_jax.training.step import TrainState

PATH = flags.DEFINE_string("path", None, "file of weights: .pkl, .pyth, .pth or .safetensors")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "workdir to make, for experiments.evaluate and config.start.workdir (required)", required=True
)
flags.adopt_module_key_flags(foreign)


def main() -> None:
    directory = place("--workdir", WORKDIR.value)
    if (directory / "config.json").exists():
        raise InputError(f"--workdir: {directory} already holds a run; choose another directory")
    model, config, classes, report = foreign.import_network(PATH.value)
    _, params, batch_stats = flat.split(model)
    # The state has no optimizer, because a run that starts from this workdir takes only its weights.
    new = TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optax.identity().init(params))
    workdir.write_workdir(directory, config, classes)
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(new, {})
    print(f"{PATH.value or foreign.MODEL.value}: {report}")
    print(f"wrote {directory}: test it with experiments.evaluate, or start a run from it with --config.start.workdir")


if __name__ == "__main__":
    command_line.run(main)
