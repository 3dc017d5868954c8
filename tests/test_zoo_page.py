"""docs/zoo.md has the table of published networks as it is."""

from pathlib import Path

from nl_jax.models.geometry import GEOMETRIES
from nl_jax.zoo.table import markdown

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_has_the_table():
    assert markdown() in (DOCS / "zoo.md").read_text()


def test_the_comparison_names_every_published_geometry():
    page = (DOCS / "compare.md").read_text()
    for name in set(GEOMETRIES) - {"small"}:
        assert f"| {name} |" in page, name
