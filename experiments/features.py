r"""Writes the features of a layer for every clip of videos: one .npz a video, for retrieval and localisation.

python -m experiments.features --model=i3d_nln_r50_8x8 --layer=res5 VIDEOS --out=features
python -m experiments.features --workdir=runs/folder --layer=res4_2_nonlocal --nopooled VIDEOS --out=features

OUT/NAME.npz of a video VIDEOS/NAME holds `clips` (v,t), the frame numbers of its v clips; `seconds` (v,), the time of
the middle of each clip; and `features` (v,crops,c), or (v,crops,t,h,w,c) with --nopooled. The same command continues
where it stopped. OUT/bad_videos.csv lists videos that cannot be decoded. The exit code is 0, or 1 if a video could not
be read, or 2 if no video could be read.
"""

from pathlib import Path

from absl import flags

from experiments import command_line, feature_files
from nl_jax.errors import InputError
from nl_jax.places import check_local, place
from nl_jax.runs.features import Extractor

WORKDIR = flags.DEFINE_string("workdir", None, "the workdir of a trained or imported network")
MODEL = flags.DEFINE_string("model", None, "a published network (nl_jax.zoo) instead of --workdir")
BEST = flags.DEFINE_bool("best", False, "use the best checkpoint by validation, not the newest")
LAYER = flags.DEFINE_string("layer", "res5", "a layer, such as res4_1_nonlocal, or a stage for its last layer")
POOLED = flags.DEFINE_bool("pooled", True, "average over the frames and positions of a clip")
EVERY = flags.DEFINE_float("every", 0.0, "seconds from clip to clip, if this gives more clips than testing", 0)
NUM_CLIPS = flags.DEFINE_integer("num_clips", None, "clips per video; by default as in testing", 1)
NUM_CROPS = flags.DEFINE_integer("num_crops", None, "crops per clip, 1 or 3; by default as in testing", 1, 3)
OUT = flags.DEFINE_string("out", None, "directory of the features", required=True)


def main(arguments: list[str]) -> None:
    if (WORKDIR.value is None) == (MODEL.value is None):
        raise InputError("give one of --workdir and --model, the network to use")
    check_local("--out", OUT.value)
    options = {"pooled": POOLED.value, "num_clips": NUM_CLIPS.value, "num_crops": NUM_CROPS.value}
    if MODEL.value is not None:
        extractor = Extractor.from_pretrained(MODEL.value, LAYER.value, **options)
    else:
        extractor = Extractor.of_workdir(place("--workdir", WORKDIR.value), LAYER.value, best=BEST.value, **options)
    out = Path(OUT.value)
    bad, total = feature_files.write(extractor, arguments, out, every=EVERY.value)
    if bad:
        message = f"{bad} of {total} videos could not be read: {out / feature_files.BAD}"
        command_line.fail(message, 1 if bad < total else 2)


if __name__ == "__main__":
    command_line.run(main, "videos, folders or patterns")
