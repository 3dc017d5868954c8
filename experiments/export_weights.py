"""Writes a trained network as a PySlowFast checkpoint, and says which PySlowFast config builds it.

python -m experiments.export_weights --workdir=runs/i3d_nln --path=i3d_nln.pyth
"""

from pathlib import Path

from absl import flags

from experiments import command_line
from nl_jax.models import flat
from nl_jax.tasks import restore_network
from nl_jax.training import sharding
from nl_jax.weights import save

WORKDIR = flags.DEFINE_string("workdir", None, "the workdir of the run to export", required=True)
PATH = flags.DEFINE_string("path", None, "the file to write, .pyth", required=True)


def main() -> None:
    model = flat.merge(*restore_network(Path(WORKDIR.value), sharding.make_mesh(-1, 1)))
    config = save(model, PATH.value)
    print(f"wrote {PATH.value}\n{config}")


if __name__ == "__main__":
    command_line.run(main)
