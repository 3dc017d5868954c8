"""Kinetics-400, -600 and -700: `train.csv`, `validate.csv` or `val.csv`, and `test.csv` as DeepMind and CVDF do it."""

from pathlib import Path

from nl_jax.data.sources.listing import Files, Item, Listing, annotation_file, number, read_table, required_file
from nl_jax.errors import InputError

# Several releases of the same lists, and the names that they carry.
_LISTS = {
    "train": ("train.csv", "kinetics_train.csv", "kinetics-*_train.csv", "kinetics*train*.csv"),
    "validation": ("validate.csv", "val.csv", "kinetics_val.csv", "kinetics-*_val.csv", "kinetics*val*.csv"),
    "test": ("test.csv", "kinetics_test.csv", "kinetics-*_test.csv", "kinetics*test*.csv"),
}
_FOLDERS = {"train": ("train",), "validation": ("val", "validate", "validation"), "test": ("test",)}


def kinetics(source: Path, num_classes: int) -> Listing:
    """The videos of the lists below `source`, whose files may lie in any folders there.

    A file is named `ID_START_END` with six digits for either second, as all usual downloads are, or `ID`. Classes are
    in alphabetical order, as everywhere. Test lists of Kinetics-600 on have no labels and are left out.

    Raises:
        InputError: there is no training list, a list is not one, or it has another number of classes.
    """
    rows: dict[str, list[tuple[str, str, float, float]]] = {}
    for split, names in _LISTS.items():
        file = required_file(source, *names) if split == "train" else annotation_file(source, *names)
        if file is None:
            continue
        columns = ("youtube_id", "time_start", "time_end")
        lines = list(read_table(file, columns if split == "test" else ("label", *columns)))
        rows[split] = [
            (
                row["label"].strip().strip('"'),
                row["youtube_id"],
                number(row["time_start"], where, "time_start"),
                number(row["time_end"], where, "time_end"),
            )
            for where, row in lines
            if row.get("label", "").strip()
        ]
    classes = tuple(sorted({label for label, *_ in rows["train"]}))
    if len(classes) != num_classes:
        raise InputError(f"{source}: the training list has {len(classes)} classes, valid is {num_classes}")
    index = {name: i for i, name in enumerate(classes)}
    files = Files(source)
    items = []
    for split, lines in rows.items():
        for label, video, start, end in sorted(lines, key=lambda line: line[1:]):
            if label not in index:
                raise InputError(f"{source}: the {split} list has the class {label!r}, the training list has not")
            name = f"{video}_{int(start):06d}_{int(end):06d}"
            path = files.find(name, video, near=_FOLDERS[split])
            items.append(Item(name, path, split, index[label], duration=end - start))
    return Listing(tuple(items), classes, files.rest())
