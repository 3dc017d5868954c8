"""`experiments.predict` for a network of detection: draws the objects into pictures, or prints JSON."""

import os
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from experiments import command_line
from experiments.named_videos import named_videos
from nl_jax.data.media.failure import DecodeError
from nl_jax.data.media.image_files import is_picture
from nl_jax.data.video.stream import is_stream
from nl_jax.errors import InputError
from nl_jax.places import Place


def predict(
    directory: Place | None,
    arguments: list[str],
    *,
    best: bool,
    min_score: float,
    every: float,
    out: Place | None,
    print_json,
    model: str | None = None,
) -> None:
    """Finds the objects in every named image, and in the frames of every named video.

    Args:
      directory: the workdir of a detection run; None for a published network.
      arguments: images, videos, folders and patterns.
      best: whether to take the best checkpoint on the validation split instead of the newest.
      min_score: minimum score of an object.
      every: minimum seconds from one frame of a video to the next; 0 takes every frame.
      out: folder for the pictures; None draws no pictures.
      print_json: a function that gets a dict for every image; None prints text.
      model: name of the published network.

    Raises:
      InputError: an argument is a camera, or the workdir belongs to another kind of run.
    """
    from nl_jax.figures import detections
    from nl_jax.runs.detector import Detector, frames  # imports pycocotools, which a classifier does not need

    detector = Detector.from_pretrained(model) if model else Detector(directory, best=best)
    console = Console(highlight=False, soft_wrap=True, quiet=print_json is not None)
    done, failed, stems = 0, 0, Counter()
    for name, _, problem in named_videos(arguments, stills=True):
        if is_stream(name):
            raise InputError(
                f"{name} is a camera or standard input, which a network of detection cannot read; give images, "
                "videos or folders of them"
            )
        try:
            if problem:
                raise DecodeError(name, problem)
            stem = Path(name).stem
            stems[stem] += 1
            stem = f"{stem}-{stems[stem]}" if stems[stem] > 1 else stem
            still = is_picture(os.path.basename(name))
            for number, seconds, image in frames(name, every):
                found = detector(image, min_score)
                place = {} if still else {"frame": number, "seconds": round(seconds, 3)}
                objects = found.as_list()
                if print_json is not None:
                    print_json({"image": name} | place | {"objects": objects})
                words = [f"{one['class']} {one['score']:.0%}" for one in objects]
                where = "" if still else f"  {seconds:.2f} s"
                console.print(f"[bold]{escape(name)}[/bold]{where}  {escape(', '.join(words)) or 'no object'}")
                if out is not None:
                    path = out / (f"{stem}.png" if still else f"{stem}_{number:06d}.png")
                    drawn = (found.boxes, words, found.labels, found.masks, found.skeletons())
                    detections.save(detections.draw_objects(image, *drawn), path)
            done += 1
        except DecodeError as error:
            failed += 1
            print(f"skipped: {name}: {error.reason}", file=sys.stderr)
            if print_json is not None:
                print_json({"image": name, "error": error.reason})
    if out is not None and done:
        console.print(f"wrote the pictures to {out}")
    if failed:
        command_line.fail(f"{failed} of {done + failed} files could not be read", 1 if done else 2)
