"""docs/reproduction.md says what its commands print from results/."""

import json
import re
import shlex
from pathlib import Path

import pytest

from experiments import real_data
from experiments.reproduce import __main__ as reproduce

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reproduction.md").read_text()
TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_its_tables_are_what_its_commands_print(tmp_path, monkeypatch):
    """All of them, and it has no others."""
    monkeypatch.setattr("experiments.reproduce.tables.plot", lambda *_: None)  # tested elsewhere
    monkeypatch.setattr("experiments.reproduce.distance.plot", lambda *_: None)
    printed = set()
    for number, command in enumerate(re.findall(r"^python -m experiments.reproduce (.*--show.*)", PAGE, re.MULTILINE)):
        kinds = [kind for kind in ("dip", "distance") if f"--{kind}" in command]
        if "--baseline" in command and not kinds:  # of the differences below
            continue
        out = tmp_path / str(number)
        out.mkdir()
        with pytest.raises(SystemExit) as ended:
            reproduce.main([*shlex.split(command), f"--out={out}"])
        assert not ended.value.code
        for path in out.glob("*.md"):
            if not kinds or path.stem.endswith(tuple(kinds)):
                printed.update(TABLE.findall(path.read_text()))
    assert printed == {table for table in TABLE.findall(PAGE) if table.startswith("| row |")}


@pytest.mark.parametrize(
    ("table", "pairs"),
    {
        "2a": "embedded_gaussian-gaussian embedded_gaussian-dot_product embedded_gaussian-concatenation",
        "2b": "res4-res2 res4-res3 res5-res4",
        "2c": "r50_5-r50_1 r101_5-r101_1 r50_10-r50_5 r101_10-r101_5",
        "2d": "spacetime_r50-space_r50 spacetime_r50-time_r50 spacetime_r101-time_r101",
        "2e": "nl_c2d-i3d_3x1x1 nl_c2d-i3d_3x3x3",
        "2f": "nl5_i3d_r50-i3d_r50 nl5_i3d_r101-i3d_r101",
        "2g": "nl5_i3d_r50-i3d_r50 nl5_i3d_r101-i3d_r101",
        "controls": "five_blocks-same_parameters five_blocks-same_flops",
        "controls_after": "global_context-five_blocks simplified-five_blocks",
    }.items(),
)
def test_its_differences_between_two_rows_are_those_of_the_results(table, pairs):
    """What the command prints with --baseline, without drawing it."""
    arguments = reproduce.parser().parse_args([table, "--laptop", "--seeds=5"])
    runs = reproduce._runs(arguments, [])[table]
    for pair in pairs.split():
        ours, theirs = (reproduce._row(table, row, runs[row], arguments) for row in pair.split("-"))
        difference = ours.difference(theirs)
        assert difference is not None and str(difference) in PAGE, f"{table} {pair}"


def test_its_figures_of_real_data_are_those_of_the_results():
    for name in real_data.DATA:
        found = json.loads((ROOT / "results" / f"real_data_{name}.json").read_text())
        assert f"real_data {name} --seeds={found['seeds']}" in PAGE
        assert real_data.markdown(found["networks"]) in PAGE, name
