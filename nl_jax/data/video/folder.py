"""A dataset of labelled videos on disk: a CSV list, or a folder with one sub-folder for each class."""

import os
from pathlib import Path

from nl_jax.data.media.failure import Source
from nl_jax.data.media.packets import index_of
from nl_jax.data.sources.folder import class_name, class_names, list_csv, list_folder
from nl_jax.data.video.videos import Videos
from nl_jax.errors import InputError


class VideoFolder(Videos):
    """Labelled videos of a folder or a CSV list, with the clips and crops of the paper (section 4).

    Args:
      path: a CSV file of `path,label` lines, or a folder with one sub-folder of videos for each class. The CSV may
        begin with the header line `path,label`. Relative paths in the CSV are relative to the folder of the CSV.
      classes: class names in label order. By default they are the sorted labels of the list. If all labels are integers
        and one label is 0, they are "0" to the highest label.
      options: arguments of `Videos`.

    Attributes:
      ignored: files in the folder that are not videos, are hidden, or lie in no class folder; broken links; and links
        to a folder that is already read under another name.

    Raises:
      InputError: the list is missing, empty or wrong, a listed file does not exist or is listed twice, a label is not
        in `classes`, or a number is out of range.
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
