"""Draws the positions that a position of a video or an image attends to: as arrows, as heat, or as a page to explore.

python -m experiments.attend --workdir=runs/quickstart --video=5 --block=res3_0_nonlocal --position=1,1,1
python -m experiments.attend --workdir=runs/quickstart --video=5 --position=1,1,1 --format=gif
python -m experiments.attend --workdir=runs/quickstart --video=5 --format=html --untrained
python -m experiments.attend --workdir=runs/quickstart --measure=500
python -m experiments.attend --workdir=runs/scenes --image=5 --position=1,1
python -m experiments.attend --workdir=runs/scenes --image=5 --box=10,8,32,30
python -m experiments.attend --workdir=runs/poses --image=3 --block=keypoint_1_nonlocal --keypoint=left_ankle

--position is frame, row and column of the block's input, counted from 0; for an image it is row and column. --box
selects the position at the centre of a box. Without --position and --box, a picture shows the mean over all positions.

--format=html writes one page for a browser. When the pointer is over a position, the page shows the keys that this
position attends to. The page has all blocks, or the block of --block. --beside adds the network of another workdir.
--untrained adds each network before its first step.

In a run with keypoints, --keypoint selects the position of a keypoint, and --object the number of its object.

--measure=N draws nothing. It counts the places where the arrows of N clips of the embedded task end, prints the counts
and writes them to measured.json.
"""

import json

import jax
import jax.numpy as jnp
from absl import flags
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from experiments import attend_page, command_line, pictures
from nl_jax.data.embedded.long_range import LongRange
from nl_jax.errors import InputError
from nl_jax.figures import attention, landing
from nl_jax.models import NonLocalBlock, flat
from nl_jax.places import Place, make_directory, place, write_text
from nl_jax.tasks import restore_network, task_of
from nl_jax.training import sharding, workdir
from nl_jax.training.preprocessing import make_normalize
from nl_jax.training.task import SPLITS

WORKDIR = flags.DEFINE_string("workdir", None, "workdir of a trained or imported network (required)", required=True)
SPLIT = flags.DEFINE_enum("split", "test", SPLITS, "split of the run's own data that has the video or image")
VIDEO = flags.DEFINE_string("video", "0", "video of the split: its number, counted from 0, or its name in the list")
IMAGE = flags.DEFINE_string(
    "image", "0", "image of the split, for a run of detection: its number, counted from 0, or its name"
)
VIEW = flags.DEFINE_integer("view", 0, "test view of the video, counted from 0", lower_bound=0)
BLOCK = flags.DEFINE_string("block", None, "non-local block, such as res3_1_nonlocal; by default the first block")
POSITION = flags.DEFINE_list(
    "position", None, "position in the block's input, counted from 0: frame,row,column, or row,column for an image"
)
BOX = flags.DEFINE_list("box", None, "x0,y0,x1,y1: box in pixels of the image, as predict --json prints it")
KEYPOINT = flags.DEFINE_string(
    "keypoint", None, "name of a keypoint, for a run with keypoints; by default the mean over all positions"
)
OBJECT = flags.DEFINE_integer(
    "object", 0, "number of an object, for a run with keypoints; object 0 has the highest score", lower_bound=0
)
COUNT = flags.DEFINE_integer(
    "count", 20, "number of arrows; they go to the keys with the largest weights", lower_bound=1
)
FORMAT = flags.DEFINE_enum(
    "format",
    "png",
    ("png", "pdf", "svg", "gif", "mp4", "html"),
    "format of the files; gif and mp4 are moving pictures, html is a page to explore",
)
BESIDE = flags.DEFINE_multi_string("beside", [], "workdir of another network for the page; needs --format=html")
UNTRAINED = flags.DEFINE_bool("untrained", False, "also show each network before its first step; needs --format=html")
MEASURE = flags.DEFINE_integer(
    "measure", None, "number of test clips of the embedded task whose arrows are counted", lower_bound=1
)
OUT = flags.DEFINE_string("out", None, "directory for the files; by default WORKDIR/attention")

THINGS = ("cue", "digit")  # the arrows that --measure counts start at these things


def main() -> None:
    directory = place("--workdir", WORKDIR.value)
    config = workdir.read_config(directory)
    task, is_detection = task_of(config), config.get("task") == "detection"
    position = pictures.parse_numbers("position", POSITION.value, "row,column" if is_detection else "frame,row,column")
    dataset = task.open_split(SPLIT.value, workdir.read_classes(directory))
    normalize = make_normalize(config.input)
    if FORMAT.value != "html" and (BESIDE.value or UNTRAINED.value):
        raise InputError("--beside and --untrained are for the page; give --format=html too")
    if is_detection:
        command_line.refuse_flags("video", "view", why="in a run of detection, where --image chooses the image")
    else:
        command_line.refuse_flags("image", "object", why="in a run of classification, where --video chooses the video")
    if is_detection and (MEASURE.value is not None or FORMAT.value in ("gif", "mp4")):
        flag = "measure" if MEASURE.value is not None else "format"
        raise InputError(f"--{flag} is for videos, and {directory} is a run of detection")
    if is_detection and dataset.keypoints and BOX.value is None and position is None:
        if BESIDE.value or UNTRAINED.value:
            raise InputError(
                "--beside and --untrained: the page of a keypoint head shows only one network; leave them out"
            )
        _attend_keypoints(directory, task, dataset)
        return
    command_line.refuse_flags("object", why="without the picture of a keypoint")
    if KEYPOINT.value is not None:
        raise InputError(
            f"--keypoint: {directory} must be a run with keypoints, and --box and --position must not be given"
        )
    if is_detection:
        _attend_in_image(directory, dataset, task, position)
        return
    if BOX.value is not None:
        raise InputError(f"--box is for images, and {directory} is a run of classification; give --position")
    if MEASURE.value is not None:
        drawing = ("video", "view", "block", "position", "format", "beside", "untrained")
        command_line.refuse_flags(*drawing, why="with --measure, which draws nothing")
        _measure(directory, dataset, normalize)
        return
    index = _index(dataset, "video", VIDEO.value)
    example = dataset.test_example(index)
    if (example["failed"] >= 0).any():
        raise InputError(f"--video: {dataset.names[index]} cannot be decoded: {dataset.failure_reason(index)}")
    if VIEW.value >= len(example["video"]):
        raise InputError(f"--view={VIEW.value}: the video has views 0 to {len(example['video']) - 1}")
    video = example["video"][VIEW.value]
    view = f", view {VIEW.value}" if len(example["video"]) > 1 else ""
    title = f"{SPLIT.value} video {dataset.names[index]}{view}"
    if FORMAT.value == "html":
        _write_page(directory, f"video{index}", index, position, title)
        return
    model = _load(directory)
    block = BLOCK.value or next(iter(_blocks(directory, model)))
    found = attention.attend(model, normalize(jnp.asarray(video)[None]), block, position)
    _write(directory, video, found, f"video{index}_{block}", title)


def _attend_in_image(directory: Place, dataset, task, position) -> None:
    box = pictures.parse_numbers("box", BOX.value, "x0,y0,x1,y1", kind=float)
    if box and position:
        raise InputError("--box and --position are both given; choose one")
    index = _index(dataset, "image", IMAGE.value)
    example = dataset.test_example(index)
    if (example["failed"] >= 0).any():
        raise InputError(f"--image: {dataset.names[index]} cannot be decoded: {dataset.failure_reason(index)}")
    title = f"{SPLIT.value} image {dataset.names[index]}"
    if FORMAT.value == "html":
        if box:
            raise InputError(
                "--box: the page shows every position; give --position for the position that it shows first"
            )
        _write_page(directory, f"image{index}", index, position, title)
        return
    scale = example["scale"]  # of y and x, from the image to the input of the network
    point = box and ((box[0] + box[2]) / 2 * scale[1], (box[1] + box[3]) / 2 * scale[0])
    batch = {name: jnp.asarray(example[name])[None] for name in ("images", "sizes")}
    model = _load(directory)
    block = BLOCK.value or next(iter(_blocks(directory, model)))
    options = {"position": position, "point": point}
    found = attention.attend_in_image(model, task.normalized(batch), batch["sizes"], block, **options)
    _write(directory, example["images"][None], found, f"image{index}_{block}", title)


def _write(directory: Place, video, found: attention.Attention, stem: str, title: str) -> None:
    for path in pictures.draw(video, found, _out(directory) / stem, FORMAT.value, COUNT.value, title):
        print(f"wrote {path}")


def _write_page(directory: Place, stem: str, index: int, position, title: str) -> None:
    path = attend_page.write(
        _out(directory) / f"{stem}.html",
        [directory, *(place("--beside", text) for text in BESIDE.value)],
        SPLIT.value,
        index,
        VIEW.value,
        untrained=UNTRAINED.value,
        block=BLOCK.value,
        position=position,
        count=COUNT.value,
        title=title,
    )
    print(f"wrote {path}")


def _attend_keypoints(directory: Place, task, dataset) -> None:
    from experiments import attend_keypoints  # imports pycocotools, which videos do not need

    asked = {"block": BLOCK.value, "keypoint": KEYPOINT.value, "number": OBJECT.value}
    drawn = {"count": COUNT.value, "ending": FORMAT.value, "out": _out(directory)}
    model, index = _load(directory), _index(dataset, "image", IMAGE.value)
    for path in attend_keypoints.draw(task, model, dataset, index, **asked, **drawn):
        print(f"wrote {path}")


def _out(directory: Place) -> Place:
    out = place("--out", OUT.value) if OUT.value else directory / "attention"
    make_directory(out)
    return out


def _load(directory: Place):
    model = flat.merge(*restore_network(directory, sharding.make_mesh(data=-1, fsdp=1)))
    model.eval()
    return model


def _blocks(directory: Place, model) -> dict[str, NonLocalBlock]:
    if not (blocks := model.nonlocal_blocks()):
        raise InputError(f"--workdir: the network of {directory} has no non-local block, so it has no attention")
    return blocks


def _index(dataset, flag: str, text: str) -> int:
    if text in dataset.names:
        return dataset.names.index(text)
    if not text.isdecimal() or int(text) >= len(dataset):
        raise InputError(f"--{flag}={text}: give a number from 0 to {len(dataset) - 1}, or a name in the list")
    return int(text)


def _measure(directory: Place, dataset, normalize) -> None:
    if not isinstance(dataset, LongRange) or dataset.images:
        raise InputError(
            f"--measure needs the clips of the embedded task (data.name='long_range'), and {directory} has other data"
        )
    if MEASURE.value > len(dataset):
        raise InputError(f"--measure={MEASURE.value}: the {SPLIT.value} split has {len(dataset)} clips")
    model = _load(directory)
    blocks = _blocks(directory, model)
    graphdef, *arrays = flat.split(model)

    @jax.jit
    def inputs(arrays, videos):
        model = flat.merge(graphdef, *arrays)
        model.eval()
        _, out = model(normalize(videos))
        return {name: out[name.removesuffix("_nonlocal")] for name in blocks}

    console = Console(highlight=False)
    with Progress(console=console) as progress:
        task = progress.add_task("clips", total=MEASURE.value)
        found = landing.measure(
            dataset,
            lambda videos: inputs(arrays, jnp.asarray(videos)),
            blocks,
            MEASURE.value,
            COUNT.value,
            on_batch=lambda clips: progress.update(task, completed=clips),
        )
    out = _out(directory) / "measured.json"
    write_text(out, json.dumps({block: _of_block(found, block) for block in blocks}, indent=1) + "\n")
    for block in blocks:
        table = Table("from", "to", "positive", "negative", "strongest", "chance", title=block)
        for thing in THINGS:
            landed = found[block, thing]
            counts = (landed.positive, landed.negative, landed.strongest, landed.keys)
            names = {"relevant": "digit of its tint" if thing == "cue" else "cue", "itself": "itself"}
            names |= {"others": "other digits", "background": "background"}
            table.add_row(f"the {thing}", "in all", *(str(count.total()) for count in counts))
            for kind, name in names.items():
                table.add_row("", name, *(_share(count, kind) for count in counts))
            table.add_section()
        console.print(table)
    print(
        f"The table counts {COUNT.value} arrows from the middle of the cue, and as many from the middle of the digit "
        f"of its tint, in {MEASURE.value} clips of the {SPLIT.value} split.\nIt shows where the arrows of positive "
        "weights, the arrows of negative weights, and the strongest arrow of each clip end. Chance is the share of all "
        "keys.\n"
        f"wrote {out}"
    )


def _of_block(found, block: str) -> dict[str, dict[str, dict[str, int]]]:
    """Returns the counts of a block, by the thing that the arrows start from, and by column and row of the table."""
    return {thing: {name: dict(counts) for name, counts in vars(found[block, thing]).items()} for thing in THINGS}


def _share(counts, kind: str) -> str:
    return f"{counts[kind] / counts.total():.1%}" if counts.total() else ""


if __name__ == "__main__":
    command_line.run(main)
