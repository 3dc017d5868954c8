"""The package: what it needs, what it says when more is needed, and what its files say of it."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nl_jax
from experiments.benchmark import __main__ as benchmark
from nl_jax.errors import InputError, MissingExtra

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = {"flax", "jax", "jaxtyping", "ml_dtypes", "numpy", "optax", "orbax", "rich"}  # with what Flax and JAX need
# Absent from an environment that has the package alone.
OPTIONAL = ("av", "grain", "matplotlib", "ml_collections", "PIL", "sklearn", "tensorboardX", "tensorflow_datasets")


def python(code: str, *hidden: str) -> subprocess.CompletedProcess:
    """A fresh Python that runs `code` and finds none of the packages that are hidden."""
    hide = f"import sys; sys.modules |= dict.fromkeys({hidden!r})\n"
    return subprocess.run([sys.executable, "-W", "error", "-c", hide + code], cwd=ROOT, capture_output=True, text=True)


def test_the_block_needs_no_extra():
    done = python("from nl_jax.models import NonLocalBlock, VideoResNet\nimport nl_jax.weights", *OPTIONAL)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ["data", "figures", "runs", "tasks", "training"])
def test_a_missing_extra_is_named_with_its_command(package):
    done = python(f"import nl_jax.{package}", *OPTIONAL)
    assert re.search(r'not installed: [\w, ]+; install with pip install "nl_jax\[train\]"', done.stderr), done.stderr


def test_a_program_names_the_extra_that_it_needs():
    done = python("import runpy; runpy.run_module('experiments.train', run_name='__main__')", *OPTIONAL)
    assert re.search(r'not installed: [\w, ]+ml_collections.* pip install -e "\.\[train\]"', done.stderr), done.stderr


@pytest.mark.parametrize("subject, extra", [("detection", "detection_benchmark"), ("op", "benchmark")])
def test_the_benchmark_names_the_extra_of_its_subject(subject, extra, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, f"experiments.benchmark.{subject}", None)
    with pytest.raises(SystemExit, match="2"):
        benchmark.main([subject])
    assert f'pip install -e ".[{extra}]"' in capsys.readouterr().err


def test_a_missing_extra_is_bad_input_and_an_import_error():
    assert issubclass(MissingExtra, InputError) and issubclass(MissingExtra, ImportError)


def imported(file: Path) -> tuple[set[str], set[str]]:
    """Packages that a file imports, at its top or inside a function, and those it asks for by `require`."""
    found, asked = set(), set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
            asked |= {argument.value for argument in node.args[1:]}
    found = {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"nl_jax"}
    return found - NEEDED - {"torch"}, asked  # PyTorch's own files alone need PyTorch


def test_every_package_that_is_imported_is_asked_for_first():
    for file in (ROOT / "nl_jax").rglob("*.py"):
        packages = [parent / "__init__.py" for parent in file.parents if ROOT / "nl_jax" in (parent, *parent.parents)]
        asked = set().union(*(imported(place)[1] for place in [file, *packages]))
        assert imported(file)[0] <= asked, file


def test_names_are_found_when_they_are_used():
    code = """
import sys, nl_jax, nl_jax.data
assert "jax" not in sys.modules
assert nl_jax.NonLocalBlock is nl_jax.models.NonLocalBlock and nl_jax.weights.load
assert set(nl_jax.__all__) <= set(dir(nl_jax))
assert all(hasattr(nl_jax, name) for name in nl_jax.__all__)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert set(nl_jax.__all__) == {*nl_jax.NAMES, *nl_jax.PACKAGES}
    with pytest.raises(AttributeError, match="module 'nl_jax' has no attribute 'nonlocal_block'"):
        _ = nl_jax.nonlocal_block


def ranges(*extras: str) -> dict[str, Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return {canonicalize_name(found.name): found for found in map(Requirement, lines)}


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_exact_versions_lie_in_the_ranges(version):
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    pinned = [Requirement(line) for line in lines if line]
    there = [pin for pin in pinned if pin.marker is None or pin.marker.evaluate({"python_version": version})]
    stated = ranges("train") | ranges("detection")
    assert sorted(canonicalize_name(pin.name) for pin in there) == sorted(stated)
    for pin in there:
        (exact,) = pin.specifier
        assert exact.operator == "==" and exact.version in stated[canonicalize_name(pin.name)].specifier


def test_a_wheel_carries_every_file_that_is_no_module():
    carried = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["nl_jax"]
    files = [path.relative_to(ROOT / "nl_jax") for path in (ROOT / "nl_jax").rglob("*") if path.is_file()]
    files = [path for path in files if path.suffix not in (".py", ".pyc")]
    assert Path("figures/page/page.js") in files
    assert not [path for path in files if not any(path.match(pattern) for pattern in carried)]


def test_one_version_in_every_file():
    assert f"## {nl_jax.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {nl_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert (ROOT / "nl_jax" / "py.typed").exists()
