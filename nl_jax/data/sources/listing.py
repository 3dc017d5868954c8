"""The videos that a dataset's annotations list, and the files on disk that belong to them."""

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
    """An action in a video.

    Attributes:
      label: index of its class.
      start: first moment of the action, in seconds.
      end: last moment of the action, in seconds.
    """

    label: int
    start: float
    end: float


@dataclass(frozen=True)
class Item:
    """One video that the annotations list.

    Attributes:
      name: its name in the annotations.
      path: path of its file, relative to the source, with forward slashes; None if the file does not exist.
      split: train, validation or test.
      label: index of its class; -1 in a dataset of actions.
      actions: its actions, in a dataset of actions.
      duration: duration in the annotations, in seconds; None if they have none.
    """

    name: str
    path: str | None
    split: str
    label: int
    actions: tuple[Action, ...] = ()
    duration: float | None = None


@dataclass(frozen=True)
class Listing:
    """All videos of a dataset.

    Attributes:
      items: the videos, split by split, in an order that does not depend on the file system.
      classes: class names in label order.
      unlisted: paths of video files that no annotation names, relative to the source.
      multi_label: whether a video has actions instead of one label.
    """

    items: tuple[Item, ...]
    classes: tuple[str, ...]
    unlisted: tuple[str, ...] = ()
    multi_label: bool = False


class Files:
    """The video files below a folder, found by their names without ending, in any Unicode form. Links are followed.

    Args:
      root: the folder.

    Raises:
      InputError: a folder cannot be read.
    """

    def __init__(self, root: Path):
        self._root = root
        self._of_stem: dict[str, list[str]] = defaultdict(list)
        for file in walk(root).files:
            if file.suffix.lower() in VIDEO_SUFFIXES and not any(part.startswith(".") for part in file.parts):
                self._of_stem[_one_form(file.stem)].append(file.as_posix())
        self._taken: set[str] = set()

    def find(self, *stems: str, near: Sequence[str] = ()) -> str | None:
        """Returns the path of the first file with one of these names, or None.

        Args:
          stems: names without ending, in order of preference.
          near: names of folders. A file in one of them is preferred.
        """
        near = set(map(_one_form, near))
        for stem in stems:
            if found := self._of_stem.get(_one_form(stem)):
                path = next((p for p in found if near & set(_one_form(p).split("/")[:-1])), found[0])
                self._taken.add(path)
                return path
        return None

    def rest(self) -> tuple[str, ...]:
        """Returns the paths of all files that `find` has not returned."""
        return tuple(sorted({path for paths in self._of_stem.values() for path in paths} - self._taken))


def annotation_file(source: Path, *names: str) -> Path | None:
    """Returns the file below `source` with the first of these names that exists, or None.

    If several files have this name, it returns the file with the fewest folders in its path.

    Raises:
      InputError: a folder cannot be read.
    """
    files = sorted(walk(source).files, key=lambda file: (len(file.parts), file))
    return next((source / file for name in names for file in files if file.match(name)), None)


def required_file(source: Path, *names: str) -> Path:
    """Returns the file of `annotation_file`.

    Raises:
      InputError: there is no file with one of the names.
    """
    file = annotation_file(source, *names)
    if file is None:
        raise InputError(f"{source}: found no {' or '.join(names)} below it, and the dataset needs it")
    return file


def read_table(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields (place of a line for messages, fields of the line by column) of a CSV file with a header line.

    Args:
      file: the CSV file.
      columns: names of columns that the header line must have.

    Raises:
      InputError: the file is not a CSV in UTF-8, a column is missing, or a line has too few or too many fields.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text, strict=True)
            found = reader.fieldnames or []
            if missing := [name for name in columns if name not in found]:
                raise InputError(f"{file}, line 1: found the columns {', '.join(found)}, and {missing[0]} is missing")
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise InputError(f"{where}: the number of fields is not {len(found)}, as in line 1")
                yield where, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: not a CSV text in UTF-8 ({error})") from error


def read_lines(file: Path) -> Iterator[tuple[str, str]]:
    """Yields (place of a line for messages, the line without white space at its ends) of every line with text.

    Raises:
      InputError: the file is not a text in UTF-8.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not a text in UTF-8 ({error})") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{file}, line {number}", line.strip()


def _one_form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def number(text: str, where: str, column: str) -> float:
    """Returns the number in a field of a table.

    Args:
      text: the field.
      where: the place of its line, for messages.
      column: name of the column, for messages.

    Raises:
      InputError: the field is not a number.
    """
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{where}: found {column} {text!r}, valid is a number") from None
