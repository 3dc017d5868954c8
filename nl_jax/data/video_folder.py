"""A data set of labelled videos on disk: a CSV list, or a folder with one sub-folder per class."""

import csv
import os
from pathlib import Path

from nl_jax.data.decode import Source, probe
from nl_jax.data.sources.listing import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from nl_jax.data.videos import Videos
from nl_jax.errors import InputError

_MAX_CLASSES = 1_000_000  # an integer label beyond is a mistake, not a class


class VideoFolder(Videos):
    """Labelled videos, and the clips and crops the paper takes of them (section 4).

    Args:
        path: a CSV file of `path,label` lines (that very header line is optional; relative paths start at the CSV's
            folder), or a folder with one sub-folder of videos per class.
        classes: class names in label order. Without it they are the sorted labels found or, when all labels are
            integers, "0" to the highest.
        options: of `Videos`.

    Attributes:
        ignored: files in the folder that are not taken for videos, are hidden, or lie in no class folder.

    Raises:
        InputError: the list is missing, empty or wrong, a listed file does not exist or is listed twice, a label is
            not among `classes`, or a number is out of range.
    """

    def __init__(self, path: str | os.PathLike, *, classes: tuple[str, ...] | None = None, **options):
        if os.path.isdir(path):
            root = str(path)
            self.ignored, rows, found = list_folder(Path(path))
        elif os.path.isfile(path):
            root = str(Path(path).parent)
            self.ignored, rows, found = [], *list_csv(Path(path))
        else:
            raise InputError(f"{path}: there is no such file or folder, valid is a CSV file or a folder of videos")
        classes = class_names(found, path) if classes is None else tuple(classes)
        index = {name: i for i, name in enumerate(classes)}
        if len(index) < len(classes):
            raise InputError(f"classes: found {classes}, valid are distinct names")
        for _, label, where in rows:
            if label not in index:
                raise InputError(f"{where}: found label {label!r}, valid are {_shortened(classes)}")
        super().__init__(
            root, [name for name, _, _ in rows], [index[label] for _, label, _ in rows], classes, **options
        )

    def _video(self, index: int) -> tuple[Source, int, float]:
        path = os.path.join(self._root, self.names[index])
        header = probe(path)
        return path, header.frames, header.rate


# Both listings return rows (name, label, where it stands, for messages) and the labels found.
_Row = tuple[str, str, str]


def list_folder(root: Path) -> tuple[list[str], list[_Row], list[str]]:
    """(files that are not taken, a (path, label, where it stands) for every video, classes) of a folder of classes.

    Raises:
        InputError: it has no sub-folder, or no video in one.
    """
    ignored, rows = [], []
    folders = sorted(d.name for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))
    if not folders:
        raise InputError(f"{root}: found no sub-folder, valid is one sub-folder of videos per class")
    endings = VIDEO_SUFFIXES | IMAGE_SUFFIXES
    for file in sorted(f for f in root.rglob("*") if not f.is_dir()):
        name = file.relative_to(root)
        hidden = any(part.startswith(".") for part in name.parts)
        if file.suffix.lower() in endings and name.parts[0] in folders and not hidden:
            rows.append((name.as_posix(), name.parts[0], str(root / name.parts[0])))
        else:
            ignored.append(name.as_posix())
    if not rows:
        raise InputError(f"{root}: found no video in its sub-folders, valid endings are {' '.join(sorted(endings))}")
    return ignored, rows, folders


def list_csv(file: Path) -> tuple[list[_Row], list[str]]:
    """(a (path, label, line) for every video, their labels) of a CSV of path,label lines.

    Raises:
        InputError: not such a text, a line that is not path,label, or a file that does not exist or is listed twice.
    """
    rows, lines = [], {}
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.reader(text, strict=True)
            for first, row in enumerate(reader):
                fields = [field.strip() for field in row]
                where = f"{file}, line {reader.line_num}"
                if not any(fields) or (first == 0 and fields == ["path", "label"]):
                    continue
                if len(fields) != 2 or not all(fields):
                    raise InputError(f"{where}: found {','.join(row)!r}, valid is path,label")
                name = _relative(fields[0], file.parent)
                if name in lines:
                    raise InputError(f"{where}: {name} is listed already in line {lines[name]}, valid is once")
                if not os.path.isfile(file.parent / name):
                    raise InputError(f"{where}: there is no file {file.parent / name}")
                lines[name] = reader.line_num
                rows.append((name, fields[1], where))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: not a CSV text in UTF-8 ({error}), valid are path,label lines") from error
    if not rows:
        raise InputError(f"{file}: found no line, valid are path,label lines")
    return rows, [label for _, label, _ in rows]


def _relative(path: str, root: Path) -> str:
    """One spelling per file, relative to the list where it lies below it."""
    absolute = Path(os.path.abspath(root))
    clean = Path(os.path.normpath(path))
    return (clean.relative_to(absolute) if clean.is_relative_to(absolute) else clean).as_posix()


def class_names(labels: list[str], path: str | os.PathLike) -> tuple[str, ...]:
    """The sorted labels or, when all are integers, "0" to the highest; `path` is for messages.

    Raises:
        InputError: a negative integer, or one so high that it can be no label.
    """
    found = set(labels)
    if negative := sorted(label for label in found if label.startswith("-") and label[1:].isdecimal()):
        raise InputError(f"{path}: found the label {negative[0]}, valid are class names or integers from 0")
    if not all(label.isdecimal() and str(int(label)) == label for label in found):
        return tuple(sorted(found))
    highest = max(int(label) for label in found)
    if highest >= _MAX_CLASSES:
        raise InputError(f"{path}: found the label {highest}, valid are class names or integers below {_MAX_CLASSES}")
    return tuple(str(i) for i in range(highest + 1))


def _shortened(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 20 else f"{', '.join(names[:20])} and {len(names) - 20} more"
