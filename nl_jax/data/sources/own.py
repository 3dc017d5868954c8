"""Lists a user's own videos: one split or several, each a folder of classes or a CSV file of `path,label` lines."""

import os
from pathlib import Path

from nl_jax.data.sources.folder import SPLIT_NAMES, class_names, find_videos, is_video, list_csv, list_folder
from nl_jax.data.sources.listing import Item, Listing
from nl_jax.errors import InputError

_NAMES = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}


def own_videos(source: Path) -> Listing:
    """Returns the videos of a user's own dataset.

    If `source` holds a folder or CSV file named train, the splits are the folders or CSV files train, validation (or
    val) and test. Otherwise all of `source` is the training split.

    Args:
      source: a folder or a CSV file.

    Raises:
      InputError: `source` does not exist; a split is neither a folder of classes nor a list; a split is there twice or
        has another name.
    """
    if not source.exists():
        raise InputError(f"{source}: there is no such file or folder")
    parts, root = _parts(source), source if source.is_dir() else source.parent
    unlisted, listed, found = _beside(source, parts), [], []
    for split, path in parts.items():
        if path.is_dir():
            folder = list_folder(path)
            rows, labels = folder.rows, folder.labels
            unlisted += [(path / name).relative_to(root).as_posix() for name in folder.others]
            listed += [(split, (path / name).as_posix(), label, False) for name, label in folder.missing]
        else:
            rows, labels = list_csv(path)
            path = path.parent
        listed += [(split, (path / name).as_posix(), label, True) for name, label, _ in rows]
        found += labels
    classes = class_names(found, source)
    index = {name: i for i, name in enumerate(classes)}
    items = []
    for split, path, label, there in listed:
        name = Path(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else path
        items.append(Item(name, name if there else None, split, index[label]))
    return Listing(tuple(items), classes, tuple(unlisted))


def _parts(source: Path) -> dict[str, Path]:
    """Returns the folder or list of each split. Without a split named train, all of `source` is the training split."""
    parts = {}
    for split, names in _NAMES.items():
        for ending in ("", ".csv"):  # a list comes before a folder, which may hold the videos of the list
            found = [path for path in (source / f"{name}{ending}" for name in names) if path.exists()]
            if len(found) > 1:
                raise InputError(f"{source}: found {found[0].name} and {found[1].name}, valid is one of them")
            if found:
                parts[split] = found[0]
    if "train" not in parts:
        return {"train": source}
    ending = ".csv" if parts["train"].is_file() else ""
    others = {name for name in os.listdir(source) if name.endswith(ending)} - {path.name for path in parts.values()}
    if wrong := sorted(name for name in others if name.removesuffix(".csv").casefold() in SPLIT_NAMES):
        raise InputError(f"{source}: found {wrong[0]}, valid names of splits are train, validation or val, and test")
    return parts


def _beside(source: Path, parts: dict[str, Path]) -> list[str]:
    """Returns the videos of `source` that lie in no split, relative to it."""
    if source in parts.values() or any(path.is_file() for path in parts.values()):  # a list names its videos anywhere
        return []
    found = []
    for entry in sorted(set(source.iterdir()) - set(parts.values())):
        if entry.is_dir() and not entry.name.startswith("."):
            found += [(entry / name).relative_to(source).as_posix() for name in find_videos(entry)[0]]
        elif is_video(entry.name):
            found.append(entry.name)
    return found
