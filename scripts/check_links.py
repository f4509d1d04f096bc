"""Links of a built site and of Markdown files, checked without a network."""

import json
import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {"img": "src", "script": "src", "iframe": "src", "source": "src"}
NOT_A_PAGE = ("404.html",)


class Page(HTMLParser):
    """The anchors of a page, its links, and the addresses that a browser loads by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keeps what an opening tag names."""
        values = {name: value for name, value in attrs if value is not None}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and values.get("rel") in ("stylesheet", "icon"):
            self.loads.append(values["href"])
        if LOADS.get(tag) in values:
            self.loads.append(values[LOADS[tag]])


def faults_of_site(site: Path) -> list[str]:
    """A line for every link that leads nowhere, foreign resource, and page missing from search."""
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    faults = []
    for path, page in pages.items():
        if path.name in NOT_A_PAGE:  # its links are absolute
            continue
        name = path.relative_to(site)
        faults += [f"{name}: loads {url} from elsewhere" for url in page.loads if _foreign(url)]
        for url in page.links + page.loads:
            if not _foreign(url) and (fault := _fault(url, path, pages)):
                faults.append(f"{name}: {url}: {fault}")
    return faults + _missing_from_search(site, pages)


def _fault(url: str, source: Path, pages: dict[Path, Page]) -> str:
    parts = urlsplit(url)
    target = (source.parent / unquote(parts.path)).resolve() if parts.path else source
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return "no such file"
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].anchors:
        return "no such anchor"
    return ""


def _foreign(url: str) -> bool:
    return bool(urlsplit(url).scheme or urlsplit(url).netloc)


def _missing_from_search(site: Path, pages: Iterable[Path]) -> list[str]:
    index = site / "search" / "search_index.json"
    if not index.is_file():
        return ["the site has no search index"]
    found = {entry["location"].partition("#")[0] for entry in json.loads(index.read_text())["docs"]}
    names = {path.relative_to(site).as_posix() for path in pages} - set(NOT_A_PAGE)
    found |= {"index.html"} if "" in found else set()
    return [f"{name}: not in the search index" for name in sorted(names - found)]


def faults_of_markdown(files: Iterable[Path], root: Path) -> list[str]:
    """A line for every relative link of a Markdown file whose file or heading is not there."""
    faults = []
    for path in files:
        text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(), flags=re.DOTALL)
        for url in re.findall(r"\]\(<?([^)\s>]+)", text):
            if _foreign(url):
                continue
            parts = urlsplit(url)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                faults.append(f"{path.relative_to(root)}: {url}: no such file")
            elif parts.fragment and parts.fragment not in headings(target.read_text()):
                faults.append(f"{path.relative_to(root)}: {url}: no such heading")
    return faults


def headings(markdown: str) -> set[str]:
    """Anchors that code hosts give to the headings of a Markdown text."""
    text = re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ +(.+?) *#*$", text, re.MULTILINE)
    titles = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
