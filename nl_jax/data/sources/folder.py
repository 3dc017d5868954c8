"""A user's own videos: folders of classes or CSVs of path,label, one or one for each split."""

from pathlib import Path

from nl_jax.data.sources.listing import Item, Listing
from nl_jax.data.video_folder import class_names, list_csv, list_folder
from nl_jax.errors import InputError

_NAMES = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}


def video_folder(source: Path) -> Listing:
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
