"""The package: what it needs, what it says when more is needed, and what its files say of it."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nl_jax
from nl_jax.errors import EXTRAS, InputError, MissingExtra, require

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What Flax needs comes with it.
OPTIONAL = sorted(set(EXTRAS["train"]) - {"absl", "optax", "orbax", "rich"})


def python(code: str, *hidden: str) -> subprocess.CompletedProcess:
    """A fresh Python that runs `code` and finds none of the packages that are hidden."""
    hide = f"import sys; sys.modules |= dict.fromkeys({hidden!r})\n"
    return subprocess.run([sys.executable, "-W", "error", "-c", hide + code], cwd=ROOT, capture_output=True, text=True)


def test_the_block_needs_no_extra():
    done = python("from nl_jax.models import NonLocalBlock, VideoResNet\nimport nl_jax.weights", *OPTIONAL)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ["data", "figures", "training"])
def test_a_missing_extra_is_named_with_its_command(package):
    done = python(f"import nl_jax.{package}", "grain", "matplotlib")
    assert 'not installed: grain, matplotlib; install with pip install "nl_jax[train]"' in done.stderr


def test_a_program_without_its_extra_ends_with_one_line():
    done = python("import runpy; runpy.run_module('experiments.train', run_name='__main__')", "av")
    assert done.returncode == 2
    assert re.fullmatch(r'error: not installed: av; install with pip install "nl_jax\[train\]".*\n', done.stderr)


def test_a_missing_extra_is_bad_input_and_an_import_error():
    assert issubclass(MissingExtra, InputError) and issubclass(MissingExtra, ImportError)
    require("train")


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


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_is_checked_for_all_it_installs(extra):
    distributions = packages_distributions()
    checked = {canonicalize_name(name) for package in EXTRAS[extra] for name in distributions.get(package, [package])}
    stated = set(ranges(extra)) - set(ranges())
    assert stated <= checked and len(stated) == len(EXTRAS[extra])


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_exact_versions_lie_in_the_ranges(version):
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    pinned = [Requirement(line) for line in lines if line]
    there = [pin for pin in pinned if pin.marker is None or pin.marker.evaluate({"python_version": version})]
    stated = ranges("train")
    assert sorted(canonicalize_name(pin.name) for pin in there) == sorted(stated)
    for pin in there:
        (exact,) = pin.specifier
        assert exact.operator == "==" and exact.version in stated[canonicalize_name(pin.name)].specifier


def test_one_version_in_every_file():
    assert f"## {nl_jax.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {nl_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert (ROOT / "nl_jax" / "py.typed").exists()
