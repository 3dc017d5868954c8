"""What a data set's annotations list, and which of it a copy on disk holds."""

import csv
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nl_jax.data.sources.walk import walk
from nl_jax.errors import InputError

VIDEO_SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .f4v .flv .gif .m1v .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogg .ogv .rm .swf .ts .vob "
    ".webm .wmv".split()
)


@dataclass(frozen=True)
class Action:
    """Something that is done from `start` to `end`, in seconds, both included."""

    label: int
    start: float
    end: float


@dataclass(frozen=True)
class Item:
    """One video that the annotations list.

    Attributes:
        name: what the annotations call it.
        path: its file, relative to the source with forward slashes; None if the copy has none.
        split: train, validation or test.
        label: index of its class; -1 for a video of actions.
        actions: what is done in it, for a data set of actions.
        duration: seconds that the annotations promise; None if they do not say.
    """

    name: str
    path: str | None
    split: str
    label: int
    actions: tuple[Action, ...] = ()
    duration: float | None = None


@dataclass(frozen=True)
class Listing:
    """All videos of a data set.

    Attributes:
        items: split by split, in an order that does not depend on the file system.
        classes: their names in label order.
        unlisted: files that look like videos and that no annotation names, relative to the source.
        multi_label: whether a video has actions instead of one label.
    """

    items: tuple[Item, ...]
    classes: tuple[str, ...]
    unlisted: tuple[str, ...] = ()
    multi_label: bool = False


class Files:
    """The video files below a folder, found by name without their ending, in any Unicode form; links are followed."""

    def __init__(self, root: Path):
        self._root = root
        self._of_stem: dict[str, list[str]] = defaultdict(list)
        for file in walk(root).files:
            if file.suffix.lower() in VIDEO_SUFFIXES and not any(part.startswith(".") for part in file.parts):
                self._of_stem[_one_form(file.stem)].append(file.as_posix())
        self._taken: set[str] = set()

    def find(self, *stems: str, near: Sequence[str] = ()) -> str | None:
        """The first file of any of these names; one in a folder of a name in `near` comes before others."""
        near = set(map(_one_form, near))
        for stem in stems:
            if found := self._of_stem.get(_one_form(stem)):
                path = next((p for p in found if near & set(_one_form(p).split("/")[:-1])), found[0])
                self._taken.add(path)
                return path
        return None

    def rest(self) -> tuple[str, ...]:
        """All that `find` never returned."""
        return tuple(sorted({path for paths in self._of_stem.values() for path in paths} - self._taken))


def annotation_file(source: Path, *names: str) -> Path | None:
    """The file of the first of these names that lies anywhere below `source`; the one nearest to it."""
    files = sorted(walk(source).files, key=lambda file: (len(file.parts), file))
    return next((source / file for name in names for file in files if file.match(name)), None)


def required_file(source: Path, *names: str) -> Path:
    """As `annotation_file`; raises InputError if there is none."""
    file = annotation_file(source, *names)
    if file is None:
        raise InputError(f"{source}: found no {' or '.join(names)} below it, which the data set comes with")
    return file


def read_table(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(where a line stands, its fields by name) of a CSV with a header line, which must name `columns`.

    Raises:
        InputError: not a CSV in UTF-8, a column is missing, or a line has too few or too many fields.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text, strict=True)
            found = reader.fieldnames or []
            if missing := [name for name in columns if name not in found]:
                raise InputError(f"{file}, line 1: found the columns {', '.join(found)}, valid has {missing[0]}, too")
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise InputError(f"{where}: found another number of fields than the {len(found)} of line 1")
                yield where, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: not a CSV text in UTF-8 ({error})") from error


def _one_form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def number(text: str, where: str, column: str) -> float:
    """The number in a field; raises InputError if there is none."""
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{where}: found {column} {text!r}, valid is a number") from None
