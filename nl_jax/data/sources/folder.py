"""Lists the videos of one split of a user: a folder of classes or a CSV file of `path,label` lines."""

import csv
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from nl_jax.data.media.image_files import IMAGE_SUFFIXES, is_picture
from nl_jax.data.media.picture_folder import picture_files
from nl_jax.data.sources.listing import VIDEO_SUFFIXES
from nl_jax.data.sources.walk import walk
from nl_jax.errors import InputError

_MAX_CLASSES = 1_000_000  # a larger integer label is a mistake, not a class

# Headers that other lists have for the second column.
_HEADERS = frozenset("label labels class classes category target y".split())
# Names that people give to the folders and lists of splits.
SPLIT_NAMES = frozenset("train training val valid validate validation dev eval evaluation test testing".split())


# A video as `list_folder` and `list_csv` return it: (name, label, place for messages).
_Row = tuple[str, str, str]


@dataclass(frozen=True)
class Folder:
    """The content of a folder of classes.

    Attributes:
      rows: (path, label, class folder) of every video.
      labels: the classes. Classes without a video are included.
      others: files that are not used, and links to folders that are used under another name.
      missing: (path, label) of videos that are broken links.
    """

    rows: list[_Row]
    labels: list[str]
    others: list[str]
    missing: list[tuple[str, str]]


def list_folder(root: Path) -> Folder:
    """Returns the videos of a folder with one sub-folder for each class. Links are followed.

    Raises:
      InputError: the folder has no sub-folder or no video; its sub-folders are the splits of a dataset; or its only
        sub-folder holds the classes.
    """
    below = walk(root)
    folders = [folder.name for folder in below.folders if len(folder.parts) == 1 and not folder.name.startswith(".")]
    if not folders:
        raise InputError(f"{root}: found no sub-folder, valid is one sub-folder of videos per class")
    videos, others = choose_videos(below.files, least_depth=2)
    missing = [file for file in below.dangling if is_video(file.name) and len(file.parts) > 1]
    rows = [(name.as_posix(), class_name(name.parts[0]), str(root / name.parts[0])) for name in videos]
    if not rows:
        endings = " ".join(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))
        links = f"; {len(below.dangling)} files are links to files that do not exist" if below.dangling else ""
        raise InputError(f"{root}: found no video in its sub-folders, valid endings are {endings}{links}")
    _refuse_another_level(root, folders, videos)
    rest = [*others, *(path for path in (*below.dangling, *below.again) if path not in missing)]
    return Folder(
        rows,
        [class_name(folder) for folder in folders],
        [path.as_posix() for path in sorted(rest)],
        [(path.as_posix(), class_name(path.parts[0])) for path in missing],
    )


def _refuse_another_level(root: Path, folders: list[str], videos: list[Path]) -> None:
    """Raises InputError if the sub-folders of `root` seem to be splits, or a level above the classes."""
    deep = [len(video.parts) > 2 for video in videos]
    filled = sorted({video.parts[0] for video in videos})
    splits = [name for name in filled if name.casefold() in SPLIT_NAMES]
    inside_splits = any(is_deep for video, is_deep in zip(videos, deep, strict=True) if video.parts[0] in splits)
    if (splits == filled and (len(splits) > 1 or all(deep))) or (len(splits) > 1 and inside_splits):
        found = f"found the splits {', '.join(splits)} in place of classes"
        if not inside_splits:
            raise InputError(f"{root}: {found}; valid is one sub-folder of videos per class, or a list of path,label")
        first = next((name for name in splits if name.casefold() == "train"), splits[0])
        raise InputError(f"{root}: {found}, valid is the folder of one of them, such as {root / first}")
    inside = {video.parts[1] for video in videos}
    if all(deep) and len(folders) == 1 and len(inside) > 1:
        found = f"found one sub-folder, {folders[0]}, and {len(inside)} folders in it"
        raise InputError(f"{root}: {found}; if these are the classes, valid is {root / folders[0]}")


def find_videos(root: Path, *, stills: bool = False) -> tuple[list[Path], list[Path]]:
    """Returns (videos, files that belong to no video) below a folder, sorted, with paths relative to the folder.

    `choose_videos` decides which files are videos. Links are followed, and each folder is entered once. A broken link
    with the ending of a video is also a video, so that reading it raises an error.

    Args:
      root: the folder.
      stills: as in `choose_videos`.

    Raises:
      InputError: a folder cannot be read.
    """
    below = walk(root)
    videos, others = choose_videos(below.files, stills=stills)
    missing = {file for file in below.dangling if is_video(file.name)}
    return sorted([*videos, *missing]), sorted({*others, *below.dangling, *below.again} - missing)


def choose_videos(files: list[Path], *, least_depth: int = 1, stills: bool = False) -> tuple[list[Path], list[Path]]:
    """Returns (videos, files that belong to no video), sorted.

    A video is a file with the ending of a video, or a folder of numbered pictures. If all folders of pictures have the
    same name (CLASS/images), they are not videos. Pictures that belong to no video are left out. If there are only
    pictures, each picture is a video of one frame.

    Args:
      files: all files below a folder, with paths relative to it.
      least_depth: minimum number of parts of a video's path: 2 in a folder of classes.
      stills: whether every picture is a video of one frame, and no folder is a video.
    """
    seen = [f for f in files if len(f.parts) >= least_depth and not any(part.startswith(".") for part in f.parts)]
    names: dict[Path, list[str]] = {}
    for file in seen:
        names.setdefault(file.parent, []).append(file.name)
    of_frames = {
        folder
        for folder, inside in names.items()
        if not stills and len(folder.parts) >= least_depth and picture_files(inside) and not any(map(is_video, inside))
    }
    if len(of_frames) > 1 and len({folder.name for folder in of_frames}) == 1:
        of_frames = set()
    video_of = {file: file for file in seen if is_video(file.name)}
    video_of |= {file: file.parent for file in seen if file.parent in of_frames and is_picture(file.name)}
    if stills or not video_of:
        video_of |= {file: file for file in seen if is_picture(file.name)}
    return sorted(set(video_of.values())), [file for file in files if file not in video_of]


def is_video(name: str) -> bool:
    """Returns whether a file's name has the ending of a video."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def list_csv(file: Path) -> tuple[list[_Row], list[str]]:
    """Returns (path, label, line) of every video of a CSV file of `path,label` lines, and the labels.

    Raises:
      InputError: the file is not a CSV in UTF-8, a line is not `path,label`, or a video does not exist or is listed
        twice.
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
                    raise InputError(f"{where}: found {','.join(row)!r}, valid is path,label{_separator(fields)}")
                name = _relative(_on_disk(fields[0], file.parent), file.parent)
                if name in lines:
                    raise InputError(f"{where}: {name} is listed already in line {lines[name]}, valid is once")
                if not _is_there(file.parent / name):
                    raise InputError(f"{where}: {_why_missing(fields, file.parent / name, is_first=not rows)}")
                lines[name] = reader.line_num
                rows.append((name, class_name(fields[1]), where))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: not a CSV text in UTF-8 ({error}), valid are path,label lines") from error
    if not rows:
        raise InputError(f"{file}: found no line, valid are path,label lines")
    return rows, [label for _, label, _ in rows]


def _is_there(path: Path) -> bool:
    """Returns whether the path is a file, or a folder with the frames of a video."""
    return bool(picture_files(os.listdir(path))) if path.is_dir() else path.is_file()


def _on_disk(path: str, root: Path) -> str:
    """Returns the path in the Unicode form that exists. The list and the files may come from different systems."""
    forms = [path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD"))]
    return next((form for form in forms if os.path.lexists(root / form)), path)


def _separator(fields: list[str]) -> str:
    """Returns a hint for the message about a line whose separator is not a comma; "" for other lines."""
    path, _, label = fields[0].replace(";", " ").replace("\t", " ").rpartition(" ")
    return ", with a comma between them" if len(fields) == 1 and path and label else ""


def _why_missing(fields: list[str], path: Path, *, is_first: bool) -> str:
    """Returns the most likely reason why a listed file does not exist."""
    if is_first and not os.path.splitext(fields[0])[1] and fields[1].lower() in _HEADERS:
        return f"found the header {','.join(fields)!r}, valid is path,label or none"
    if "://" in fields[0]:
        return f"found the address {fields[0]!r}, valid is the path of a file: download it first"
    if "\\" in fields[0]:
        return f"there is no file {path}; paths are written with forward slashes, and {fields[0]!r} has backslashes"
    if os.path.islink(path):
        return f"{path} is a link to {os.readlink(path)}, which does not exist"
    return f"there is no file {path}, nor a folder of numbered pictures"


def _relative(path: str, root: Path) -> str:
    """Returns one spelling of a file's path, relative to the folder of the list if the file is below it."""
    absolute = Path(os.path.abspath(root))
    clean = Path(os.path.normpath(path))
    return (clean.relative_to(absolute) if clean.is_relative_to(absolute) else clean).as_posix()


def class_name(text: str) -> str:
    """Returns the class name of a label or a folder, in the Unicode form NFC."""
    return unicodedata.normalize("NFC", text)


def class_names(labels: list[str], path: str | os.PathLike) -> tuple[str, ...]:
    """Returns the class names of the labels: the sorted labels, or "0" to the highest integer.

    If all labels are integers and one label is 0, they are indices of classes, as in the lists of other programs. The
    classes are then "0" to the highest, so that a list of only some classes keeps their indices. Integers without 0
    (1, 2, 3, or the years 2019, 2020) are names, sorted as numbers.

    Args:
      labels: labels of the videos.
      path: the list or folder, for error messages.

    Raises:
      InputError: a label is a negative integer, or an integer index of a million or more.
    """
    found = set(labels)
    if negative := sorted(label for label in found if label.startswith("-") and label[1:].isdecimal()):
        raise InputError(f"{path}: found the label {negative[0]}, valid are class names or integers from 0")
    if not all(label.isdecimal() and str(int(label)) == label for label in found):
        return tuple(sorted(found))
    if "0" not in found:
        return tuple(sorted(found, key=int))
    highest = max(int(label) for label in found)
    if highest >= _MAX_CLASSES:
        raise InputError(f"{path}: found the label {highest}, valid are class names or integers below {_MAX_CLASSES}")
    return tuple(str(i) for i in range(highest + 1))
