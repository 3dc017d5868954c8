"""Reads UCF101 and HMDB51. Each has three official splits, and each split has a training and a test list."""

from pathlib import Path

from nl_jax.data.sources.listing import Files, Item, Listing, read_lines, required_file
from nl_jax.data.sources.walk import walk
from nl_jax.errors import InputError


def ucf101(source: Path, split: int) -> Listing:
    """Returns the videos of UCF101 in one official split.

    It reads `classInd.txt`, `trainlist0N.txt` and `testlist0N.txt` of the action recognition task.

    Args:
      source: folder of the dataset.
      split: N, the number of the official split.

    Raises:
      InputError: a file is missing, or it does not have the distributed form.
    """
    index = {}
    for where, line in read_lines(required_file(source, "classInd.txt")):
        number, _, name = line.partition(" ")
        if not number.isdecimal():
            raise InputError(f"{where}: found {line!r}, valid is a number from 1 and a class")
        index[name.strip()] = int(number) - 1
    if sorted(index.values()) != list(range(len(index))):
        raise InputError(f"{source}: classInd.txt does not number its classes from 1")
    files = Files(source)
    items = []
    for name in ("train", "test"):
        for where, line in read_lines(required_file(source, f"{name}list0{split}.txt")):
            video = line.split()[0]
            label, _, file = video.partition("/")
            if label not in index or not file:
                raise InputError(f"{where}: found {line!r}, valid is CLASS/VIDEO")
            items.append(Item(video, files.find(Path(file).stem, near=(label,)), name, index[label]))
    classes = tuple(sorted(index, key=index.__getitem__))
    return Listing(tuple(items), classes, files.rest())


def hmdb51(source: Path, split: int) -> Listing:
    """Returns the videos of HMDB51 in one official split.

    It reads `CLASS_test_splitN.txt` of every class. The number after a video's name is 1 for training, 2 for testing
    and 0 for neither.

    Args:
      source: folder of the dataset.
      split: N, the number of the official split.

    Raises:
      InputError: no file is found, or a file does not have the distributed form.
    """
    ending = f"_test_split{split}.txt"
    lists = {file.name.removesuffix(ending): source / file for file in walk(source).files if file.match(f"*{ending}")}
    if not lists:
        raise InputError(f"{source}: found no CLASS{ending} below it, and the dataset needs it")
    files = Files(source)
    items: dict[str, list[Item]] = {"train": [], "test": []}
    for label, (name, file) in enumerate(lists.items()):
        for where, line in read_lines(file):
            video, _, use = line.rpartition(" ")
            if use not in ("0", "1", "2"):
                raise InputError(f"{where}: found {line!r}, valid is VIDEO and 0, 1 or 2")
            path = files.find(Path(video).stem, near=(name,))
            if use != "0":
                items[_SPLITS[use]].append(Item(f"{name}/{video}", path, _SPLITS[use], label))
    return Listing((*items["train"], *items["test"]), tuple(lists), files.rest())


_SPLITS = {"1": "train", "2": "test"}
