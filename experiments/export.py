r"""Writes a network with its weights as StableHLO programs, one program for each platform. A batch can have any size.

python -m experiments.export --workdir=runs/folder --out=exported
python -m experiments.export --model=i3d_nln_r50_8x8 --platforms=cpu,tpu --out=exported

`jax.export.deserialize(file.read()).call(video)` runs OUT/PLATFORM.jax_export. It maps video uint8 (b,t,h,w,3) to
logits (b,k). OUT/PLATFORM.stablehlo is the same program as portable MLIR bytecode for other readers. OUT/export.json
has the shapes and the classes. Any machine can write the programs of all platforms.
"""

from pathlib import Path

from absl import flags

from experiments import command_line
from nl_jax.errors import InputError
from nl_jax.models import flat
from nl_jax.places import check_local, place
from nl_jax.runs.stablehlo import PLATFORMS, write_programs
from nl_jax.tasks import restore_network
from nl_jax.training import sharding, workdir
from nl_jax.zoo.pretrained import pretrained
from nl_jax.zoo.table import find

WORKDIR = flags.DEFINE_string("workdir", None, "workdir of a trained or imported network")
MODEL = flags.DEFINE_string("model", None, "published network instead of --workdir: a name of nl_jax.zoo")
BEST = flags.DEFINE_bool("best", False, "use the best checkpoint on the validation split; by default the newest")
FORMAT = flags.DEFINE_enum("format", "stablehlo", ("stablehlo",), "format of the files")
CHOSEN = flags.DEFINE_list(
    "platforms", list(PLATFORMS), f"platforms of the programs, separated by commas, from {', '.join(PLATFORMS)}"
)
SIZE = flags.DEFINE_integer("size", None, "side of a crop in pixels; by default the side of the test crops", 1)
OUT = flags.DEFINE_string("out", None, "directory for the programs (required)", required=True)


def main() -> None:
    if (WORKDIR.value is None) == (MODEL.value is None):
        raise InputError("give either --workdir or --model, the network to export")
    check_local("--out", OUT.value)
    if MODEL.value is not None:
        command_line.refuse_flags("best", why="with --model, which has one network")
        if find(MODEL.value).is_detector:  # before a download
            raise InputError(f"--model={MODEL.value}: only networks of videos are exported, and it detects objects")
        found = pretrained(MODEL.value)
        model, config, classes = found.model, found.config, found.classes
    else:
        directory = place("--workdir", WORKDIR.value)
        config, classes = workdir.read_config(directory), workdir.read_classes(directory)
        model = flat.merge(*restore_network(directory, sharding.make_mesh(-1, 1), best=BEST.value))
    config = config.copy_and_resolve_references().unlock()
    if SIZE.value is not None:
        config.data["side" if config.data.name == "long_range" else "test_crop"] = SIZE.value
    for path in write_programs(model, config, classes, CHOSEN.value, Path(OUT.value)):
        print(f"wrote {path}: {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    command_line.run(main)
