"""Every config, resolved, with the blocks it inserts and the arrays of its network, as text under tests/golden.

A diff of these files shows what a change did to every experiment. To accept it:
REFRESH_GOLDEN=1 pytest tests/test_golden.py
"""

import importlib
import os
from pathlib import Path

import pytest
from flax import nnx

from nl_jax.models import flat
from nl_jax.tasks import task_of

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
MODULES = sorted(
    path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "common", "laptop")
)
ROWS = [(name, row) for name in MODULES for row in importlib.import_module(f"configs.{name}").ROWS]


def describe(name: str, row: str) -> str:
    config = importlib.import_module(f"configs.{name}").get_config(row)
    model = nnx.eval_shape(lambda: task_of(config).build(config.num_classes or 5, nnx.Rngs(0)))
    _, params, batch_stats = flat.split(model)
    lines = [f"# configs/{name}.py:{row}", "", "## config", str(config).rstrip(), "", "## non-local blocks"]
    lines += list(model.nonlocal_blocks()) or ["none"]
    for title, arrays in (("parameters", params), ("batch norm statistics", batch_stats)):
        lines += ["", f"## {title}", *(f"{key} {tuple(array.shape)}" for key, array in sorted(arrays.items()))]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name, row", ROWS)
def test_config_is_as_it_was(name, row):
    path = GOLDEN / name / f"{row}.txt"
    found = describe(name, row)
    if os.environ.get("REFRESH_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found)
    assert path.exists() and found == path.read_text(), f"{path.relative_to(ROOT)} differs; see the top of this file"


def test_no_golden_file_is_left_of_a_config_that_is_gone():
    assert {(path.parent.name, path.stem) for path in GOLDEN.glob("*/*.txt")} == set(ROWS)
