"""The documentation: every link leads somewhere, nothing comes from elsewhere, and every public name is explained."""

import ast
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={directory}"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # of the theme, on a future of mkdocs
    built = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return directory


def test_the_site_asks_nothing_of_other_servers(site):
    assert not [f"{page.name}: {url}" for page in site.rglob("*.html") for url in _fetched(page) if _outside(url)]
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)\"']*", style.read_text()), style.name


def test_what_is_written_as_a_list_is_one(site):
    # Unlike other dialects, this one wants a blank line before a list, and four spaces before what belongs to an item.
    for page in site.rglob("*.html"):
        for paragraph in re.findall(r"<p>(.*?)</p>", page.read_text(), re.DOTALL):
            text = re.sub(r"<[^>]*>", "", paragraph)
            assert not re.search(r"^\s*([-*]|\d+\.) ", text, re.MULTILINE), f"{page.name}: {text}"


def test_a_flag_in_a_sentence_is_not_broken_after_its_hyphens(site):
    page = (site / "pods.html").read_text()
    assert '<code><span class="word">--mesh</span></code>' in page
    for page in site.rglob("*.html"):
        assert not re.findall(r"<code>[^<]*--[^<]*</code>", page.read_text()), page.name


def test_every_public_name_has_a_docstring_and_a_place_in_the_reference(site):
    explained = set()
    for page in (site / "reference").glob("*.html"):
        explained |= set(re.findall(r'id="(nl_jax\.[\w.]+)"', page.read_text()))
    names = {name: node for file in sorted((REPOSITORY / "nl_jax").rglob("*.py")) for name, node in _public(file)}
    assert "nl_jax.ops.nonlocal_op.gaussian" in names and "nl_jax.models.resnet_config.ResNetConfig.stages" in names
    assert not [name for name, node in names.items() if not ast.get_docstring(node)], "without a docstring"
    missing = sorted({name for name, node in names.items() if not isinstance(node, ast.Module)} - explained)
    assert not missing, f"add `::: MODULE` of these to its page in docs/reference: {', '.join(missing)}"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_site_is_searched_when_it_is_opened_from_disk(site, tmp_path):
    browser = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic"]
    browser += ["--disable-background-networking", f"--user-data-dir={tmp_path}", "--virtual-time-budget=15000"]
    command = [*browser, "--dump-dom", f"{(site / 'index.html').as_uri()}?q=Charades"]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    found = re.findall(r'href="([^"]*)" class="md-search-result__link"', page)
    assert re.search(r'md-search-result__meta">\d+ matching documents', page), "nothing was found"
    assert any("data.html" in link for link in found), found


def _fetched(page: Path) -> list[str]:
    """The addresses that a browser loads for a page by itself."""
    urls = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            urls.extend(url for name, url in attributes if url and (name == "src" or (tag, name) == ("link", "href")))

    Reader().feed(page.read_text())
    assert any(url.endswith(".css") for url in urls), f"{page} was not understood"
    return urls


def _outside(url: str) -> bool:
    return url.startswith(("http:", "https:", "//"))


def _public(file: Path):
    """(dotted name, its syntax tree) of a module and of the functions, classes and methods it defines."""
    path = file.relative_to(REPOSITORY).with_suffix("")
    module = ".".join(path.parts).removesuffix(".__init__")
    tree = ast.parse(file.read_text())
    yield module, tree
    stack = [(module, tree)]
    while stack:
        prefix, parent = stack.pop()
        for node in parent.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                yield f"{prefix}.{node.name}", node
                if isinstance(node, ast.ClassDef):
                    stack.append((f"{prefix}.{node.name}", node))
