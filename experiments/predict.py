r"""Predicts the classes or objects in videos or images with a trained network, and draws pictures or prints JSON.

python -m experiments.predict --workdir=runs/folder VIDEO.mp4 FOLDER 'VIDEOS/*.webm' --out=predictions
python -m experiments.predict --model=i3d_nln_r50_8x8 VIDEO.mp4
python -m experiments.predict --checkpoint=FILE --config=configs/kinetics.py:nl5_i3d_r50 \
    --config.model.geometry=slowfast --classes=classes.txt VIDEO.mp4
python -m experiments.predict --workdir=runs/folder /dev/video0 --seconds=60

python -m experiments.predict --workdir=runs/detector IMAGE.jpg FOLDER VIDEO.mp4 --out=found

With a network of detection, the program finds the objects in every image and in every frame of a video, or with --every
in fewer frames. It writes pictures with boxes, outlines, names and scores to --out.

A video is a file, a folder, a pattern, "-" for standard input, or a camera: /dev/video0, avfoundation:0 or
dshow:video=NAME. The network sees the same clips and crops as in testing, and more clips of a longer video. The exit
code is 0 if every video was read, 1 if some videos could not be read, and 2 if no video could be read.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from absl import flags
from rich.bar import Bar
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments import command_line, foreign, pictures, predict_objects
from experiments.named_videos import named_videos
from nl_jax.data.media.failure import DecodeError
from nl_jax.data.video.stream import is_stream
from nl_jax.errors import InputError
from nl_jax.figures import attention
from nl_jax.figures.scores import draw_scores
from nl_jax.places import make_directory, place
from nl_jax.runs.predictor import Prediction, Predictor
from nl_jax.training import workdir
from nl_jax.zoo import find

WORKDIR = flags.DEFINE_string("workdir", None, "workdir of a trained or imported network")
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "file of weights of another program; needs --config or --model")
BEST = flags.DEFINE_bool("best", False, "use the best checkpoint on the validation split; by default the newest")
EVERY = flags.DEFINE_float(
    "every",
    None,
    "seconds from clip to clip, or from frame to frame with a network of detection; 0 takes the test clips, or every "
    "frame; by default 10 for the clips of a file, and 0 for a stream and for detection",
    0,
)
SECONDS = flags.DEFINE_float("seconds", 0.0, "seconds to read from a camera or standard input; 0 reads to the end", 0)
TOP = flags.DEFINE_integer("top", 5, "number of classes to show for each video", lower_bound=1)
MIN_SCORE = flags.DEFINE_float("min_score", 0.5, "minimum score of an object, for a network of detection", 0, 1)
MULTI_LABEL = flags.DEFINE_bool(
    "multi_label",
    None,
    "whether a video can have several classes: a sigmoid for each class, and the maximum over the clips; by default as "
    "in the run",
)
JSON = flags.DEFINE_bool("json", False, "print one line of JSON for each video to standard output, and nothing else")
OUT = flags.DEFINE_string(
    "out",
    None,
    "directory for pictures: the scores over time, and the attention of the clip with the highest score; by default no "
    "pictures",
)
BLOCK = flags.DEFINE_string(
    "block", None, "non-local block of the attention picture, such as res3_1_nonlocal; by default the last block"
)
POSITION = flags.DEFINE_list(
    "position",
    None,
    "position of the attention picture: frame,row,column of the block's input, counted from 0; by default the mean "
    "over all positions",
)
flags.adopt_module_key_flags(foreign)


def main(arguments: list[str]) -> None:
    _check_flags(arguments)
    if _finds_objects():
        of_classifier = ("top", "multi_label", "seconds", "block", "position")
        command_line.refuse_flags(*of_classifier, why="with a network of detection")
        _objects(arguments)
        return
    command_line.refuse_flags("min_score", why="with a network of classification")
    position = pictures.parse_numbers("position", POSITION.value, "frame,row,column")
    predictor = _predictor()
    if OUT.value:
        make_directory(place("--out", OUT.value))
        predictor.check_block(BLOCK.value)
    # Output to a file or a pipe is not wrapped. So a path stays on one line.
    width = None if sys.stdout.isatty() else 10_000
    console = Console(highlight=False, soft_wrap=False, quiet=JSON.value, width=width)
    done, failed, stems = 0, 0, Counter()
    for name, _, problem in named_videos(arguments, stills=predictor.frames == 1):
        if not problem:
            try:
                found = _predict(predictor, name, console)
            except DecodeError as error:
                problem = error.reason
        if problem:
            failed += 1
            print(f"skipped: {name}: {problem}", file=sys.stderr)
            if JSON.value:
                _print_json({"video": name, "error": problem})
            continue
        done += 1
        _show(found, console)
        if OUT.value:
            stem = Path(name).stem if not is_stream(name) else "stream"
            stems[stem] += 1
            _draw(predictor, found, f"{stem}-{stems[stem]}" if stems[stem] > 1 else stem, position)
    if failed:
        command_line.fail(f"{failed} of {done + failed} videos could not be read", 1 if done else 2)


def _check_flags(arguments: list[str]) -> None:
    others = CHECKPOINT.value is not None or foreign.MODEL.value is not None
    if (WORKDIR.value is not None) == others:
        raise InputError("give the network: either --workdir, or --model, or --checkpoint with --config or --model")
    if WORKDIR.value is not None:
        command_line.refuse_flags(*foreign.OF_FILE, why="with --workdir, which has its own config")
    else:
        command_line.refuse_flags("best", why="without --workdir, which has checkpoints")
    if foreign.MODEL.value is not None:
        foreign.check_published()
    if not OUT.value:
        command_line.refuse_flags("block", "position", why="without --out, the directory for pictures")
    if not any(map(is_stream, arguments)):
        command_line.refuse_flags("seconds", why="without a camera or standard input")


def _finds_objects() -> bool:
    if WORKDIR.value is not None:
        return workdir.read_config(place("--workdir", WORKDIR.value)).get("task") == "detection"
    return foreign.MODEL.value is not None and CHECKPOINT.value is None and find(foreign.MODEL.value).is_detector


def _objects(arguments: list[str]) -> None:
    if OUT.value:
        make_directory(place("--out", OUT.value))
    predict_objects.predict(
        place("--workdir", WORKDIR.value) if WORKDIR.value else None,
        arguments,
        best=BEST.value,
        min_score=MIN_SCORE.value,
        every=EVERY.value or 0.0,
        out=place("--out", OUT.value) if OUT.value else None,
        print_json=_print_json if JSON.value else None,
        model=foreign.MODEL.value,
    )


def _predictor() -> Predictor:
    if WORKDIR.value is not None:
        return Predictor.of_workdir(place("--workdir", WORKDIR.value), best=BEST.value, multi_label=MULTI_LABEL.value)
    if foreign.MODEL.value is not None and MULTI_LABEL.value is None:
        return Predictor.from_pretrained(foreign.MODEL.value, CHECKPOINT.value)
    model, config, classes, report = foreign.import_network(CHECKPOINT.value)
    print(f"{CHECKPOINT.value or foreign.MODEL.value}: {report}", file=sys.stderr)
    return Predictor(model, config, classes, multi_label=bool(MULTI_LABEL.value))


def _predict(predictor: Predictor, name: str, console: Console) -> Prediction:
    with console.status(escape(name)) as status:

        def on_clip(seconds: float, scores: np.ndarray) -> None:
            best = int(scores.argmax())
            line = f"{seconds:8.1f} s  {predictor.classes[best]} {scores[best]:.1%}"
            if is_stream(name):
                console.print(escape(line))  # each clip of a stream gets its own line
            else:
                status.update(escape(f"{name}  {line}"))

        if is_stream(name):
            return predictor.stream(name, every=EVERY.value or 0.0, seconds=SECONDS.value, on_clip=on_clip)
        return predictor.file(name, every=10.0 if EVERY.value is None else EVERY.value, on_clip=on_clip)


def _show(found: Prediction, console: Console) -> None:
    top = found.top(TOP.value)
    if JSON.value:
        clips = [
            {"seconds": round(float(seconds), 3), "top": found.top(TOP.value, scores)}
            for seconds, scores in zip(found.seconds, found.clip_scores, strict=True)
        ]
        _print_json({"video": found.name, "top": top, "clips": clips})
        return
    console.print(f"[bold]{escape(found.name)}[/bold]  {len(found.seconds)} clips x {found.crops} crops")
    table = Table.grid(padding=(0, 2))
    for entry in top:
        bar = Bar(1.0, 0.0, max(0.0, min(1.0, entry["score"])), width=30, color="bright_blue")
        table.add_row(f"  {entry['score']:6.1%}", bar, escape(entry["class"]))
    console.print(table)


def _draw(predictor: Predictor, found: Prediction, stem: str, position: tuple[int, int, int] | None) -> None:
    out = place("--out", OUT.value)
    say = (lambda path: None) if JSON.value else (lambda path: print(f"wrote {path}"))
    if len(found.seconds) > 1:
        shown = [entry["label"] for entry in found.top(min(5, TOP.value))]
        figure = draw_scores(found.seconds, found.clip_scores, predictor.classes, shown, found.name)
        path = out / f"{stem}_scores.png"
        attention.save(figure, path)
        say(path)
    if predictor.blocks:
        seen = predictor.attend(found.surest.video, BLOCK.value, position)
        best = found.top(1, found.clip_scores[found.surest.number])[0]
        title = f"{found.name}, the clip around {found.surest.seconds:.1f} s: {best['class']} {best['score']:.1%}"
        for path in pictures.draw(found.surest.video, seen, out / f"{stem}_{seen.block.split()[0]}", "png", 20, title):
            say(path)


def _print_json(content: dict) -> None:
    print(json.dumps(content, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    command_line.run(main, "videos, folders, patterns, cameras, or - for standard input")
