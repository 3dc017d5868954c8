"""Finds the files below a folder and follows links to folders.

It enters each folder once, so a loop of links ends.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from nl_jax.errors import InputError


@dataclass
class Below:
    """The content of a folder: sorted lists of paths relative to the folder.

    Attributes:
      files: files, and links to files.
      folders: folders, and links to folders, that were entered.
      dangling: broken links.
      again: links to a folder that was entered under another name, or to a folder above `root`.
    """

    files: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    dangling: list[Path] = field(default_factory=list)
    again: list[Path] = field(default_factory=list)


def walk(root: str | os.PathLike) -> Below:
    """Returns everything below `root`, in an order that does not depend on the file system.

    A folder below `root` keeps its own name. A folder that only links lead to has the name of the first link.

    Raises:
      InputError: a folder cannot be read.
    """
    root, real_root = os.fspath(root), os.path.realpath(root)
    below, entered = Below(), set()
    links = [("", real_root)]
    while links:
        found: list[tuple[str, str]] = []
        for link in sorted(links):
            folders = [link]
            while folders:
                folder, real = folders.pop()
                if real in entered or real_root.startswith(os.path.join(real, "")):
                    below.again.append(Path(folder))
                    continue
                entered.add(real)
                if folder:
                    below.folders.append(Path(folder))
                _enter(root, folder, real, below, folders, found)
        links = found
    for paths in vars(below).values():
        paths.sort()
    return below


def _enter(root: str, folder: str, real: str, below: Below, folders: list, links: list) -> None:
    """Adds the files of one folder to `below`, its folders to `folders` and its links to folders to `links`."""
    try:
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                path = os.path.join(folder, entry.name)
                if entry.is_symlink():  # entry.is_dir() fails on a link to itself
                    if os.path.isdir(entry.path):
                        links.append((path, os.path.realpath(entry.path)))
                    else:
                        (below.files if os.path.exists(entry.path) else below.dangling).append(Path(path))
                elif entry.is_dir():
                    folders.append((path, os.path.join(real, entry.name)))
                else:
                    below.files.append(Path(path))
    except OSError as error:
        raise InputError(f"{os.path.join(root, folder)}: the folder cannot be read ({error.strerror})") from error
