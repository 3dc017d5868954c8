"""A data set of labelled videos on disk: a CSV list, or a folder with one sub-folder per class."""

import os
from pathlib import Path

from nl_jax.data.failure import Source
from nl_jax.data.packets import index_of
from nl_jax.data.sources.folder import class_name, class_names, list_csv, list_folder
from nl_jax.data.videos import Videos
from nl_jax.errors import InputError


class VideoFolder(Videos):
    """Labelled videos, and the clips and crops the paper takes of them (section 4).

    Args:
        path: a CSV file of `path,label` lines (that very header line is optional; relative paths start at the CSV's
            folder), or a folder with one sub-folder of videos per class.
        classes: class names in label order. Without it they are the sorted labels found or, when all labels are
            integers and one is 0, "0" to the highest.
        options: of `Videos`.

    Attributes:
        ignored: files in the folder that are not taken for videos, are hidden, or lie in no class folder; links to
            nothing, and links to a folder that is there by another name.

    Raises:
        InputError: the list is missing, empty or wrong, a listed file does not exist or is listed twice, a label is
            not among `classes`, or a number is out of range.
    """

    def __init__(self, path: str | os.PathLike, *, classes: tuple[str, ...] | None = None, **options):
        if os.path.isdir(path):
            root = str(path)
            folder = list_folder(Path(path))
            rows, found = folder.rows, folder.labels
            self.ignored = sorted([*folder.others, *(name for name, _ in folder.missing)])
        elif os.path.isfile(path):
            root = str(Path(path).parent)
            self.ignored, rows, found = [], *list_csv(Path(path))
        else:
            raise InputError(f"{path}: there is no such file or folder, valid is a CSV file or a folder of videos")
        classes = class_names(found, path) if classes is None else tuple(classes)
        index = {class_name(name): i for i, name in enumerate(classes)}
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
        found = index_of(path)
        return path, found.frames, found.rate


def _shortened(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 20 else f"{', '.join(names[:20])} and {len(names) - 20} more"
