"""A user's own videos: folders of classes or CSVs of path,label, one or one for each split."""

import csv
import os
from pathlib import Path

from nl_jax.data.picture_folder import IMAGE_SUFFIXES, is_picture, picture_files
from nl_jax.data.sources.listing import VIDEO_SUFFIXES, Item, Listing
from nl_jax.errors import InputError

_MAX_CLASSES = 1_000_000  # an integer label beyond is a mistake, not a class

_NAMES = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}


def own_videos(source: Path) -> Listing:
    """What is below `source`: train, validation (or val) and test folders or .csv files, or else all of it to train on.

    Raises:
        InputError: nothing there is a folder of classes or a list, or two splits name their classes differently.
    """
    if not source.exists():
        raise InputError(f"{source}: there is no such file or folder")
    parts = {
        split: path
        for split, names in _NAMES.items()
        for path in (source / f"{name}{ending}" for name in names for ending in ("", ".csv"))
        if path.exists()
    }
    parts = parts if "train" in parts else {"train": source}
    root = source if source.is_dir() else source.parent
    unlisted, listed, found = [], [], []
    for split, path in parts.items():
        if path.is_dir():
            ignored, rows, labels = list_folder(path)
            unlisted += [(path / name).relative_to(root).as_posix() for name in ignored]
        else:
            rows, labels = list_csv(path)
            path = path.parent
        listed += [(split, (path / name).as_posix(), label) for name, label, _ in rows]
        found += labels
    classes = class_names(found, source)
    index = {name: i for i, name in enumerate(classes)}
    items = []
    for split, path, label in listed:
        name = Path(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else path
        items.append(Item(name, name, split, index[label]))
    return Listing(tuple(items), classes, tuple(unlisted))


# Both listings return rows (name, label, where it stands, for messages) and the labels found.
_Row = tuple[str, str, str]


def list_folder(root: Path) -> tuple[list[str], list[_Row], list[str]]:
    """(files that are not taken, a (path, label, where it stands) for every video, classes) of a folder of classes.

    Raises:
        InputError: it has no sub-folder, or no video in one.
    """
    folders = sorted(d.name for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))
    if not folders:
        raise InputError(f"{root}: found no sub-folder, valid is one sub-folder of videos per class")
    videos, others = find_videos(root, least_depth=2)
    rows = [(name.as_posix(), name.parts[0], str(root / name.parts[0])) for name in videos]
    if not rows:
        endings = " ".join(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))
        raise InputError(f"{root}: found no video in its sub-folders, valid endings are {endings}")
    return [name.as_posix() for name in others], rows, folders


def find_videos(root: Path, *, least_depth: int = 1) -> tuple[list[Path], list[Path]]:
    """(videos, files that belong to none) below a folder, relative to it, in order.

    A video is a file with the ending of one, or a folder of numbered pictures. Folders of pictures that all have one
    name (CLASS/images) are no videos. Pictures that belong to no video are left out; if there is nothing else, each of
    them counts as a video of one frame.

    Args:
        root: the folder.
        least_depth: how far below `root` a video must lie: 2 in folders of classes.
    """
    files = [file.relative_to(root) for file in sorted(file for file in root.rglob("*") if not file.is_dir())]
    seen = [f for f in files if len(f.parts) >= least_depth and not any(part.startswith(".") for part in f.parts)]
    names: dict[Path, list[str]] = {}
    for file in seen:
        names.setdefault(file.parent, []).append(file.name)
    of_frames = {
        folder
        for folder, inside in names.items()
        if len(folder.parts) >= least_depth and picture_files(inside) and not any(map(_is_video, inside))
    }
    if len(of_frames) > 1 and len({folder.name for folder in of_frames}) == 1:
        of_frames = set()
    video_of = {file: file for file in seen if _is_video(file.name)}
    video_of |= {file: file.parent for file in seen if file.parent in of_frames and is_picture(file.name)}
    if not video_of:
        video_of = {file: file for file in seen if is_picture(file.name)}
    return sorted(set(video_of.values())), [file for file in files if file not in video_of]


def _is_video(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


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
                if not _is_there(file.parent / name):
                    raise InputError(
                        f"{where}: there is no file {file.parent / name}, nor a folder of numbered pictures"
                    )
                lines[name] = reader.line_num
                rows.append((name, fields[1], where))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: not a CSV text in UTF-8 ({error}), valid are path,label lines") from error
    if not rows:
        raise InputError(f"{file}: found no line, valid are path,label lines")
    return rows, [label for _, label, _ in rows]


def _is_there(path: Path) -> bool:
    """Whether it is a file, or a folder of the frames of a video."""
    return bool(picture_files(os.listdir(path))) if path.is_dir() else path.is_file()


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
