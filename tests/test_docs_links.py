"""The site's checks find what they say they find; the site itself is built by `scripts/docs`."""

import json
import re
from importlib import import_module
from pathlib import Path

import pytest

import atrous
import atrous.data

ROOT = Path(__file__).parents[1]


@pytest.fixture
def links(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return import_module("check_links")


@pytest.fixture
def site(tmp_path):
    """Two pages that are as they should be."""
    (tmp_path / "a.html").write_text('<h1 id="top">A</h1><a href="sub/b.html#part">b</a>')
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.html").write_text('<h2 id="part">B</h2><a href="../a.html">a</a>')
    (tmp_path / "search").mkdir()
    index = {"docs": [{"location": "a.html"}, {"location": "sub/b.html#part"}]}
    (tmp_path / "search" / "search_index.json").write_text(json.dumps(index))
    return tmp_path


def test_a_whole_site_has_no_faults(links, site):
    assert links.faults_of_site(site) == []


@pytest.mark.parametrize(
    ("html", "fault"),
    [
        ('<a href="gone.html">x</a>', "no such file"),
        ('<a href="a.html#gone">x</a>', "no such anchor"),
        ('<img src="gone.png">', "no such file"),
        ('<img src="https://example.org/x.png">', "from elsewhere"),
        ('<script src="//example.org/x.js"></script>', "from elsewhere"),
        ("", "not in the search index"),
    ],
)
def test_a_fault_of_a_page_is_found(links, site, html, fault):
    (site / "c.html").write_text(html)
    assert any(fault in line and line.startswith("c.html") for line in links.faults_of_site(site))


def test_links_of_markdown_lead_to_files_and_headings(links, tmp_path):
    (tmp_path / "b.md").write_text("# One `code` and [two](x)\n\n```\n# not a heading\n```\n")
    text = "[a](b.md#one-code-and-two) [c](b.md#not-a-heading) [d](gone.md) `[e](no.md)`"
    (tmp_path / "a.md").write_text(text)
    found = links.faults_of_markdown([tmp_path / "a.md"], tmp_path)
    assert found == ["a.md: b.md#not-a-heading: no such heading", "a.md: gone.md: no such file"]


def test_the_api_page_has_every_public_name():
    """That the paths exist is mkdocstrings' to check, when the site is built."""
    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    documented = {
        path.rpartition(".")[2] for path in re.findall(r"^::: (\S+)$", page, re.MULTILINE)
    }
    assert {*atrous.__all__, *atrous.data.__all__} - documented == {"data"}  # a package


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    assert pages == set(re.findall(r"[\w/-]+\.md", navigation))


def test_the_tests_that_security_names_exist():
    text = (ROOT / "SECURITY.md").read_text()
    names = re.findall(r"`test_(\w+)`", text) + re.findall(r"\b[DPSTW]\d\d\b", text)
    tests = "\n".join(path.read_text() for path in ROOT.glob("tests/**/test_*.py"))
    assert len(names) > 15
    missing = [name for name in names if not re.search(rf"def test_(\w+_)?{name}", tests)]
    assert missing == []
