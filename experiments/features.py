r"""Writes the features of a layer for every clip of videos, for retrieval and localisation. Each video gets one file.

python -m experiments.features --model=i3d_nln_r50_8x8 --layer=res5 VIDEOS --out=features
python -m experiments.features --workdir=runs/folder --layer=res4_2_nonlocal --nopooled VIDEOS --out=features

The video VIDEOS/NAME gets the file OUT/NAME.npz with three arrays: `clips` (v,t), the frame numbers of its v clips;
`seconds` (v,), the time of the middle of each clip; and `features` (v,crops,c), or (v,crops,t,h,w,c) with --nopooled.
The same command continues a run that stopped. OUT/bad_videos.csv lists the videos that cannot be decoded. The exit code
is 0 if every video was read, 1 if some videos could not be read, and 2 if no video could be read.
"""

from pathlib import Path

from absl import flags

from experiments import command_line, feature_files
from nl_jax.errors import InputError
from nl_jax.places import check_local, place
from nl_jax.runs.features import Extractor

WORKDIR = flags.DEFINE_string("workdir", None, "workdir of a trained or imported network")
MODEL = flags.DEFINE_string("model", None, "published network instead of --workdir: a name of nl_jax.zoo")
BEST = flags.DEFINE_bool("best", False, "use the best checkpoint on the validation split; by default the newest")
LAYER = flags.DEFINE_string(
    "layer", "res5", "layer of the features, such as res4_1_nonlocal; a stage such as res5 means its last layer"
)
POOLED = flags.DEFINE_bool("pooled", True, "average the features over the frames and positions of a clip")
EVERY = flags.DEFINE_float("every", 0.0, "maximum seconds from clip to clip; 0 takes the test clips", 0)
NUM_CLIPS = flags.DEFINE_integer("num_clips", None, "minimum number of clips of a video; by default as in testing", 1)
NUM_CROPS = flags.DEFINE_integer("num_crops", None, "number of crops of a clip, 1 or 3; by default as in testing", 1, 3)
OUT = flags.DEFINE_string("out", None, "directory for the features (required)", required=True)


def main(arguments: list[str]) -> None:
    if (WORKDIR.value is None) == (MODEL.value is None):
        raise InputError("give either --workdir or --model, the network to use")
    check_local("--out", OUT.value)
    options = {"pooled": POOLED.value, "num_clips": NUM_CLIPS.value, "num_crops": NUM_CROPS.value}
    if MODEL.value is not None:
        command_line.refuse_flags("best", why="with --model, which has one network")
        extractor = Extractor.from_pretrained(MODEL.value, LAYER.value, **options)
    else:
        extractor = Extractor.of_workdir(place("--workdir", WORKDIR.value), LAYER.value, best=BEST.value, **options)
    out = Path(OUT.value)
    bad, total = feature_files.write(extractor, arguments, out, every=EVERY.value)
    if bad:
        message = f"{bad} of {total} videos could not be read; {out / feature_files.BAD} lists them"
        command_line.fail(message, 1 if bad < total else 2)


if __name__ == "__main__":
    command_line.run(main, "videos, folders or patterns")
