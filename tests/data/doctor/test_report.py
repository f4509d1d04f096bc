import csv
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from atrous.data.contact_sheet import sample_tiles
from atrous.data.doctor.diagnosis import Diagnosis, examine
from atrous.data.doctor.report import COLUMNS, write_csv, write_html
from atrous.data.doctor.survey import survey
from atrous.data.opening import open_dataset, recognise
from tests.data.trees import blocks, folders, picture, save, voc, write


def diagnose(path: Path) -> Diagnosis:
    return examine(survey(recognise(path), workers=1))


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_table_has_a_row_for_each_sample_with_what_is_wrong(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    voc(data, {"train": 2, "val": 1})
    write(data / "JPEGImages/val_000.jpg", b"broken")
    half = blocks(21)
    half[:36] = 255
    save(data / "SegmentationClass/train_000.png", half)
    write_csv(diagnose(data), out / "data_report.csv")
    table = rows(out / "data_report.csv")
    assert {Path(name).stem for name in table} == {"train_000", "train_001", "val_000"}
    broken, row = table["JPEGImages/val_000.jpg"], table["JPEGImages/train_000.jpg"]
    assert tuple(broken) == COLUMNS
    assert broken["problem"].startswith("E-IMAGE-FORMAT")
    assert (row["splits"], row["height"], row["width"]) == ("train", "72", "96")
    assert (row["format"], row["mask"], row["problem"]) == ("JPEG", "PNG L", "")
    assert float(row["void_share"]) == 0.5
    assert row["classes"] == " ".join(str(k) for k in np.unique(half) if k != 255)


NAMES = ("a,b;c", 'quo"te', "new\nline", "<script>alert(1)</script>", "émoji 🦊", "=1+1")


def test_D20_odd_names_are_quoted_in_the_table_and_escaped_in_the_page(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    folders(data)
    names = [name.replace("/", "") for name in NAMES]
    for i, name in enumerate(names):
        save(data / "images/val" / f"{name}.jpg", picture(50 + i))
        save(data / "masks/val" / f"{name}.png", blocks(4, i))  # one value too many: findings
    diagnosis = diagnose(data)
    write_csv(diagnosis, out / "data_report.csv")
    assert {f"images/val/{n}.jpg" for n in names} <= set(rows(out / "data_report.csv"))
    dataset = open_dataset(data)
    tiles = {"val": sample_tiles(dataset, range(len(dataset)))}
    write_html(diagnosis, tiles, out / "data_report.html")
    page = (out / "data_report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_D20_names_that_are_not_utf8_are_escaped(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    folders(data)
    name = os.fsdecode(b"caf\xe9")
    try:
        save(data / "images/val" / f"{name}.jpg", picture(7))
    except OSError:
        pytest.skip("this file system has no such names")
    save(data / "masks/val" / f"{name}.png", blocks(3, 7))
    diagnosis = diagnose(data)
    write_csv(diagnosis, out / "data_report.csv")
    write_html(diagnosis, {}, out / "data_report.html")
    assert "images/val/caf\\udce9.jpg" in rows(out / "data_report.csv")


class Page(HTMLParser):
    """Checks that tags nest, and collects what the page refers to."""

    VOID = frozenset(("meta", "img", "br", "link", "input", "hr"))
    OPTIONAL = frozenset(("li", "td", "th", "tr", "p", "dt", "dd"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for key, value in attrs if key in ("src", "href")]
        if tag not in self.VOID | self.OPTIONAL:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.OPTIONAL:
            assert self.open.pop() == tag


def test_page_is_whole_and_refers_to_nothing_else(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    voc(data, {"train": 2, "val": 2})
    write(data / "JPEGImages/val_000.jpg", b"broken")
    diagnosis = diagnose(data)
    dataset = open_dataset(data)
    write_html(diagnosis, {"val": sample_tiles(dataset, (0, 1))}, out / "data_report.html")
    text = (out / "data_report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert not page.open
    assert len(page.sources) == 4
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert not re.search(r"https?://", text)
    assert "training would go wrong" in text
    assert "diningtable" in text
