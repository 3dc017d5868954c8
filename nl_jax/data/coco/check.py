"""Checks a dataset in COCO's format: reads every entry, decodes every image and reports one line for each fault."""

import csv
import hashlib
import html
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nl_jax.data.coco.annotations import Annotations, Image, read_annotations
from nl_jax.data.coco.images import SizeError, is_turned
from nl_jax.data.coco.masks import drawn
from nl_jax.data.coco.problems import KINDS, Problem, counted
from nl_jax.data.media.failure import DecodeError
from nl_jax.data.media.image_files import FORMATS, format_of, is_picture
from nl_jax.data.workers import Crash, map_unordered
from nl_jax.places import Place, make_directory, written

COLUMNS = ("split", "kind", "file", "where", "found", "valid", "result")
_SHOWN = 100  # maximum number of faults of one kind on the page


@dataclass(frozen=True)
class Line:
    """One fault of the report.

    Attributes:
      split: the split in which the fault was found.
      problem: the fault.
    """

    split: str
    problem: Problem


@dataclass(frozen=True)
class Inspection:
    """A function that decodes an image and draws its masks. It can be sent to other processes.

    Attributes:
      folder: the folder of the images.
    """

    folder: Path

    def __call__(self, image: Image) -> tuple[list[Problem], str]:
        """Returns all faults of an image, and the SHA-256 of its file ("" if there is no file)."""
        path = self.folder / image.file_name
        if not os.path.isfile(path):  # false for a name that is too long, too
            return [self.problem(image, "missing", "no such file", "an image")], ""
        data = path.read_bytes()
        problems = []
        try:
            if is_turned(path, image.width, image.height):
                found = "an orientation tag for a quarter turn, and the size before the turn"
                problems.append(self.problem(image, "turned", found, "an upright image", "read as it is stored"))
        except SizeError as error:
            found, _, valid = error.reason.removeprefix("found ").partition(", the annotations say ")
            problems.append(self.problem(image, "image size", found, valid))
        except DecodeError as error:
            problems.append(self.problem(image, "unreadable", error.reason, "an image that can be decoded whole"))
        found, valid = format_of(data), FORMATS.get(path.suffix.lower())
        if found and valid and found != valid:
            problems.append(self.problem(image, "suffix", f"a {found}", f"a {valid}, by its suffix", "kept"))
        problems += self._masks(image)
        return problems, hashlib.sha256(data).hexdigest()

    def problem(self, image: Image, kind: str, found: str, valid: str, result: str = "replaced in training") -> Problem:
        """Returns a fault of an image as a `Problem`.

        Args:
          image: the image.
          kind: as in `Problem`.
          found: as in `Problem`.
          valid: as in `Problem`.
          result: as in `Problem`.
        """
        return Problem(str(self.folder / image.file_name), f"image {image.id}", kind, found, valid, result)

    def _masks(self, image: Image) -> list[Problem]:
        problems = []
        for instance in image.instances:
            if instance.segmentation is None:
                continue
            mask = drawn(instance.segmentation, image.height, image.width)
            x0, y0, x1, y1 = image.box(instance)
            inside = mask[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))].sum()
            if 2 * inside < mask.sum() or not inside:
                found, valid = f"{inside} of the {mask.sum()} pixels of its mask in its box", "more than half"
                name = str(self.folder / image.file_name)
                problems.append(Problem(name, f"annotation {instance.id}", "mask", found, valid, "kept"))
        return problems


def check(
    splits: dict[str, tuple[Path, Path]], *, masks: bool, keypoints: bool, num_workers: int, timeout: float
) -> Iterator[list[Line]]:
    """Yields the faults of a dataset, one list at a time.

    For each split it yields the faults of the annotation file, then the faults of each image, then the unlisted images.
    Last, it yields the images that two splits share.

    Args:
      splits: {split: (folder of images, annotation file)}, as `find_splits` returns it.
      masks: as in `read_annotations`.
      keypoints: as in `read_annotations`.
      num_workers: as in `map_unordered`.
      timeout: as in `map_unordered`, in seconds.

    Raises:
      InputError: an annotation file cannot be used.
    """
    hashes: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for split, (folder, file) in splits.items():
        annotations = read_annotations(file, masks=masks, keypoints=keypoints)
        yield [Line(split, problem) for problem in annotations.problems]
        inspect, images = Inspection(folder), annotations.images
        for index, found in map_unordered(inspect, images, num_workers=num_workers, timeout=timeout):
            if isinstance(found, Crash):
                found = [inspect.problem(images[index], "unreadable", str(found), "an image that can be decoded")], ""
            problems, digest = found
            if digest:
                hashes[digest].append((split, str(folder / images[index].file_name)))
            yield [Line(split, problem) for problem in problems]
        yield [Line(split, problem) for problem in _unlisted(folder, annotations)]
    yield list(_twins(hashes))


def count_images(splits: dict[str, tuple[Path, Path]]) -> int:
    """Returns the number of images that `check` will decode.

    Args:
      splits: as in `check`.

    Raises:
      InputError: an annotation file cannot be used.
    """
    return sum(len(read_annotations(file, masks=False).images) for _, file in splits.values())


def finish(lines: Iterable[Line]) -> list[Line]:
    """Returns the faults without repetitions, sorted by split, kind (the most serious first) and file."""
    order = list(KINDS)
    unique = dict.fromkeys(lines)
    return sorted(unique, key=lambda line: (line.split, order.index(line.problem.kind), line.problem.file))


def write_report(directory: Place, title: str, lines: list[Line]) -> None:
    """Writes report.csv, with one line for every fault, and index.html.

    Args:
      directory: folder of the report.
      title: title of index.html.
      lines: the faults.

    Raises:
      InputError: the folder cannot be written.
    """
    make_directory(directory)
    with written(directory) as folder:
        folder.mkdir(exist_ok=True)
        with (folder / "report.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for line in lines:
                fault = line.problem
                writer.writerow(
                    (line.split, fault.kind, fault.file, fault.where, fault.found, fault.valid, fault.result)
                )
        (folder / "index.html").write_text(_page(title, lines), encoding="utf-8", errors="replace")


def summary(lines: Iterable[Line]) -> dict[str, dict[str, int]]:
    """Returns the number of faults of each kind, by split."""
    of_split: dict[str, list[Problem]] = defaultdict(list)
    for line in lines:
        of_split[line.split].append(line.problem)
    return {split: counted(problems) for split, problems in of_split.items()}


def _unlisted(folder: Path, annotations: Annotations) -> Iterator[Problem]:
    listed = {os.path.normpath(folder / image.file_name) for image in annotations.images}
    for path in sorted(folder.rglob("*")):
        if is_picture(path.name) and os.path.normpath(path) not in listed:
            yield Problem(str(path), "", "unlisted", "an image", "a listed image", "not used")


def _twins(hashes: dict[str, list[tuple[str, str]]]) -> Iterator[Line]:
    for same in hashes.values():
        for split, name in same:
            other = next((place for place in same if place[0] != split), None)
            if other:
                found = f"the same bytes as {other[1]} of {other[0]}"
                yield Line(split, Problem(name, "", "two splits", found, "an image of one split", "kept"))


def _page(title: str, lines: list[Line]) -> str:
    parts = []
    for kind, meaning in KINDS.items():
        of_kind = [line for line in lines if line.problem.kind == kind]
        if of_kind:
            rows = "".join(
                f"<tr><td>{html.escape(line.split)}</td><td>{html.escape(str(line.problem))}</td></tr>"
                for line in of_kind[:_SHOWN]
            )
            more = f"<p>and {len(of_kind) - _SHOWN} more in report.csv</p>" if len(of_kind) > _SHOWN else ""
            parts.append(f"<h2>{kind}, {len(of_kind)} times: {meaning}</h2><table>{rows}</table>{more}")
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>:root{{color-scheme:light dark}}body{{font:14px sans-serif;"
        "margin:1.5em}td{padding:.1em 1em .1em 0;vertical-align:top;overflow-wrap:anywhere}</style>"
        f"<h1>{html.escape(title)}</h1><p>Every fault is one line of <a href=report.csv>report.csv</a>.</p>"
        f"{''.join(parts) or '<h2>Nothing is wrong</h2>'}</html>"
    )
