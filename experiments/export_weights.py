"""Writes a trained network as a PySlowFast checkpoint and prints its config, or writes a file of named arrays.

python -m experiments.export_weights --workdir=runs/i3d_nln --path=i3d_nln.pyth
python -m experiments.export_weights --workdir=runs/quickstart --path=quickstart.safetensors
"""

from pathlib import Path

from absl import flags

from experiments import command_line
from nl_jax.models import flat
from nl_jax.places import place
from nl_jax.tasks import restore_network
from nl_jax.training import sharding
from nl_jax.training.workdir import read_classes
from nl_jax.weights import save, save_own

WORKDIR = flags.DEFINE_string("workdir", None, "workdir of the run to export (required)", required=True)
PATH = flags.DEFINE_string(
    "path", None, "file to write (required): .pyth for PySlowFast, or .safetensors for any network", required=True
)


def main() -> None:
    directory = place("--workdir", WORKDIR.value)
    model = flat.merge(*restore_network(directory, sharding.make_mesh(-1, 1)))
    if Path(PATH.value).suffix == ".safetensors":
        save_own(model, PATH.value, read_classes(directory))
        print(f"wrote {PATH.value}: the arrays have the names of nl_jax.models.flat")
        return
    config = save(model, PATH.value)
    print(f"wrote {PATH.value}\n{config}")


if __name__ == "__main__":
    command_line.run(main)
