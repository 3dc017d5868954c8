"""Draws what a position of a video looks at through a non-local block, as arrows and as heat over the frames.

python -m experiments.attend --workdir=runs/quickstart --video=5 --block=res3_0_nonlocal --position=1,1,1

A position is frame, row and column of the block's input, counted from 0; without one the average over all is drawn.
"""

from pathlib import Path

import jax.numpy as jnp
from absl import flags

from experiments import command_line
from nl_jax.errors import InputError
from nl_jax.figures import attention
from nl_jax.models import flat
from nl_jax.training import sharding, workdir
from nl_jax.training.setup import SPLITS, make_dataset
from nl_jax.training.step import make_normalize

WORKDIR = flags.DEFINE_string("workdir", None, "the workdir of a trained or imported network", required=True)
SPLIT = flags.DEFINE_enum("split", "test", SPLITS, "of the run's own data")
VIDEO = flags.DEFINE_string("video", "0", "a video of the split: its number, counted from 0, or its name in the list")
VIEW = flags.DEFINE_integer("view", 0, "which of the video's test views", lower_bound=0)
BLOCK = flags.DEFINE_string("block", None, "the block, such as res3_1_nonlocal; the first by default")
POSITION = flags.DEFINE_list("position", None, "frame,row,column of the block's input")
COUNT = flags.DEFINE_integer("count", 20, "arrows, to the positions of the largest weights", lower_bound=1)
OUT = flags.DEFINE_string("out", None, "where the pictures go; WORKDIR/attention by default")


def main() -> None:
    directory = Path(WORKDIR.value)
    config = workdir.read_config(directory)
    position = _position(POSITION.value)
    dataset = make_dataset(config.data, SPLIT.value, workdir.read_classes(directory))
    index = _index(dataset, VIDEO.value)
    example = dataset.test_views(index)
    if (example["failed"] >= 0).any():
        raise InputError(f"--video: {dataset.names[index]} cannot be decoded: {dataset.failure_reason(index)}")
    if VIEW.value >= len(example["video"]):
        raise InputError(f"--view={VIEW.value}: the video has views 0 to {len(example['video']) - 1}")
    video = example["video"][VIEW.value]

    model = flat.merge(*workdir.load_network(directory, sharding.make_mesh(data=-1, fsdp=1)))
    model.eval()
    block = BLOCK.value or next(iter(model.nonlocal_blocks()), "")
    found = attention.attend(model, make_normalize(config.input)(jnp.asarray(video)[None]), block, position)

    out = Path(OUT.value) if OUT.value else directory / "attention"
    workdir.make_directory(out)
    pictures = {"heat": attention.draw_heat(video, found)}
    if position is not None:
        pictures["arrows"] = attention.draw_arrows(video, found, COUNT.value)
    for kind, figure in pictures.items():
        at = "mean" if position is None else "-".join(map(str, position))
        path = out / f"video{index}_{block}_{at}_{kind}.png"
        attention.save(figure, path)
        print(f"wrote {path}")


def _index(dataset, text: str) -> int:
    names = getattr(dataset, "names", [])
    if text in names:
        return names.index(text)
    if not text.isdecimal() or int(text) >= len(dataset):
        names = ", or a name of the list" if names else ""
        raise InputError(f"--video={text}: valid are the numbers 0 to {len(dataset) - 1}{names}")
    return int(text)


def _position(numbers: list[str] | None) -> tuple[int, int, int] | None:
    if numbers is None:
        return None
    if len(numbers) != 3 or not all(number.strip().isdecimal() for number in numbers):
        raise InputError(f"--position={','.join(numbers)}: valid are three numbers, frame,row,column, counted from 0")
    return tuple(map(int, numbers))


if __name__ == "__main__":
    command_line.run(main)
