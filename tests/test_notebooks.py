"""Every notebook runs from the repository in a fresh kernel; its own assertions are the claims that its text makes."""

import os
import warnings
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SLOW = {"JAX_DISABLE_MOST_OPTIMIZATIONS", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_claims_hold(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Jupyter's own packages
        from nbclient import NotebookClient

        notebook = nbformat.read(path, 4)
        # As a user runs it: the tests' own settings of JAX, which compile fast code slowly, are left out.
        environ = {name: value for name, value in os.environ.items() if name not in SLOW}
        environ["PYTHONPATH"] = str(ROOT)
        client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(path.parent)}})
        client.execute(env=environ)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed(path):
    """Outputs of one run from top to bottom, claims that can fail, and a size that a page can load."""
    assert path.stat().st_size < 500_000
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    formats = {kind for cell in code for output in cell.outputs for kind in output.get("data", {})}
    assert formats & {"image/png", "image/jpeg"}
    assert sum(line.startswith(("assert ", "    assert ")) for cell in code for line in cell.source.splitlines()) >= 2
