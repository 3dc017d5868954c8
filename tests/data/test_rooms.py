"""The rooms of the data import one another in one direction: files, lists, datasets, tasks."""

import re
from pathlib import Path

DATA = Path(__file__).parents[2] / "nl_jax" / "data"
ORDER = (
    "dataset",
    "media",
    "order",
    "loader",
    "workers",
    "sources",
    "video",
    "records",
    "open",
    "coco",
    "embedded",
)


def test_rooms_of_the_data_import_in_one_direction():
    files = [file for file in DATA.rglob("*.py") if file != DATA / "__init__.py"]
    assert {file.relative_to(DATA).parts[0].removesuffix(".py") for file in files} == set(ORDER)
    for file in files:
        own = ORDER.index(file.relative_to(DATA).parts[0].removesuffix(".py"))
        imported = re.findall(r"(?:from|import) nl_jax\.data\.(\w+)", file.read_text())
        above = [room for room in imported if ORDER.index(room) > own]
        assert not above, f"{file} imports {above}"
