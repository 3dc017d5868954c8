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
        from nbclient.exceptions import CellExecutionError

        notebook = nbformat.read(path, 4)
        # As a user runs it: the tests' own settings of JAX, which compile fast code slowly, are left out.
        environ = {name: value for name, value in os.environ.items() if name not in SLOW}
        environ["PYTHONPATH"] = str(ROOT)
        client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(path.parent)}})
        try:
            client.execute(env=environ)
        except CellExecutionError as error:
            if "CalledProcessError" in error.ename:
                pytest.skip(f"data cannot be downloaded: {error.evalue}")
            raise


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_installs_what_it_needs_or_says_how(path, monkeypatch):
    """The first cell, which the other test runs where all is installed."""
    first = next(cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code")
    *lines, install = first.source.splitlines()
    assert install == '    %pip install --quiet "{requirement}" {kept}'

    def requirement(folder, address=""):
        monkeypatch.chdir(folder)
        source = "\n".join(lines).replace('REPOSITORY = ""', f"REPOSITORY = {address!r}")
        exec(source.replace('("nl_jax", ', '("not_installed", '), names := {})
        assert {kept.partition("==")[0] for kept in names["kept"].split()} == {"jax", "matplotlib", "numpy"}
        return names["requirement"]

    assert requirement(path.parent) == "..[notebooks]"
    assert requirement(ROOT.parent, "https://example.org/it") == "nl_jax[notebooks] @ git+https://example.org/it"
    with pytest.raises(RuntimeError, match="nl_jax is not installed: set REPOSITORY"):
        requirement(ROOT.parent)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed(path):
    """Outputs of one run from top to bottom, claims that can fail, and a size that a page can load."""
    assert path.stat().st_size < 650_000
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    formats = {kind for cell in code for output in cell.outputs for kind in output.get("data", {})}
    assert formats & {"image/png", "image/jpeg"}
    assert sum(line.startswith(("assert ", "    assert ")) for cell in code for line in cell.source.splitlines()) >= 2
