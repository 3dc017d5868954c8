"""Reads Charades: `Charades_v1_train.csv`, `Charades_v1_test.csv` and `Charades_v1_classes.txt` as distributed."""

from pathlib import Path

from nl_jax.data.sources.listing import Action, Files, Item, Listing, number, read_lines, read_table, required_file
from nl_jax.errors import InputError


def charades(source: Path) -> Listing:
    """Returns the videos of the two lists, ID.mp4, with the actions of each video.

    The list Charades_v1_test.csv is the validation set of the paper's table 4. Here it is the split `test`.

    Args:
      source: folder of the dataset.

    Raises:
      InputError: a file is missing, or it does not have the distributed form.
    """
    classes_file = required_file(source, "Charades_v1_classes.txt")
    classes: dict[str, str] = {}
    for _, line in read_lines(classes_file):
        code, _, name = line.partition(" ")
        classes[code] = name
    index = {code: i for i, code in enumerate(classes)}
    if list(classes) != [f"c{i:03d}" for i in range(len(classes))]:
        raise InputError(f"{classes_file}: found other codes than c000, c001 and so on")
    files = Files(source)
    items = []
    for split in ("train", "test"):
        lines = list(read_table(required_file(source, f"Charades_v1_{split}.csv"), ("id", "actions", "length")))
        for where, row in sorted(lines, key=lambda line: line[1]["id"]):
            actions = tuple(_action(text, index, where) for text in row["actions"].split(";") if text)
            length = number(row["length"], where, "length")
            items.append(Item(row["id"], files.find(row["id"]), split, -1, actions, length))
    return Listing(tuple(items), tuple(classes.values()), files.rest(), multi_label=True)


def _action(text: str, index: dict[str, int], where: str) -> Action:
    """Returns the action of a text such as `c092 11.90 21.20`: a class code, start and end in seconds."""
    fields = text.split()
    if len(fields) != 3 or fields[0] not in index:
        raise InputError(f"{where}: found the action {text!r}, valid is a code, a start and an end")
    return Action(index[fields[0]], *(number(field, where, "actions") for field in fields[1:]))
