"""docs/look.md says what `attend --measure` counted, which is in results/."""

import json
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
TO = {
    "the digit of its tint": "relevant",
    "the cue": "relevant",
    "itself": "itself",
    "the three other digits": "others",
    "the background": "background",
}
COLUMNS = ("positive", "negative", "strongest", "keys")


def test_where_arrows_land_is_what_was_measured():
    found = json.loads((ROOT / "results" / "attend_quickstart.json").read_text())
    table = re.search(r"^\| block, from \|.*\n\|[-|]*\n((?:\|.*\n)+)", (ROOT / "docs" / "look.md").read_text(), re.M)
    block = thing = ""
    rows = 0
    for line in table.group(1).splitlines():
        source, to, *cells = (cell.strip().replace("*", "") for cell in line.strip("|").split("|"))
        if source:
            block, thing = re.fullmatch(r"`(\w+)`, the (cue|digit)", source).groups()
        for column, cell in zip(COLUMNS, cells, strict=True):
            counts = Counter(found[block][thing][column])
            share = f"{counts[TO[to]] / counts.total():.1%}"
            assert cell in (share, f"{share} (of {counts.total()})"), (block, thing, to, column)
        rows += 1
    assert rows == 4 * sum(map(len, found.values())) == 16
