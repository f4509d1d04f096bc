"""The doctor's report: one self-contained HTML file, and a table of all samples."""

import csv
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from atrous.data.contact_sheet import Tile
from atrous.data.doctor.diagnosis import Diagnosis
from atrous.data.doctor.measure import Measurement
from atrous.data.html_page import jpeg, write_page
from atrous.errors import printable
from atrous.images.decode import atomic
from atrous.predict.overlay import display_colors

_SHOWN = 10  # files of a finding that the HTML names; the table has all files

COLUMNS = (
    "splits", "name", "picture", "annotation", "height", "width", "format", "mask", "classes",
    "void_share", "picture_sha256", "annotation_sha256", "problem",
)  # fmt: skip


def write_csv(diagnosis: Diagnosis, path: Path) -> None:
    """Writes a row for each sample. Undecodable characters in names are escaped."""
    splits: dict[int, list[str]] = {}
    for split, indices in diagnosis.survey.splits.items():
        for index in indices:
            splits.setdefault(index, []).append(split)
    ignore = diagnosis.ignore_index
    with (
        atomic(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for index, m in enumerate(diagnosis.survey.measurements):
            writer.writerow([" ".join(splits[index]), *_row(m, ignore)])


def _row(m: Measurement, ignore: int) -> list[object]:
    total = sum(m.counts.values())
    void = m.counts.get(ignore, 0) / total if total else ""
    height, width = m.size or ("", "")
    problem = "; ".join(f"{t.code}: {t.what}" for t in m.troubles)
    classes = " ".join(map(str, sorted(k for k in m.counts if k != ignore)))
    return [
        m.name, m.picture, m.annotation, height, width, m.format, m.mask, classes, void,
        m.digest.hex(), m.annotation_digest.hex(), problem,
    ]  # fmt: skip


def write_html(diagnosis: Diagnosis, samples: Mapping[str, Sequence[Tile]], path: Path) -> None:
    """Writes the report.

    Args:
        diagnosis: The findings.
        samples: Split -> pictures and targets to show.
        path: The file.

    Raises:
        AtrousError: Jinja2 is not installed.
    """
    survey = diagnosis.survey
    shares = {split: diagnosis.shares(split) for split in survey.splits}
    write_page(
        "atrous.data.doctor",
        path,
        {"shown": printable, "jpeg": partial(jpeg, quality=80)},
        diagnosis=diagnosis,
        survey=survey,
        name=printable(survey.root.resolve().name),
        levels=("error", "warning", "note"),
        most=_SHOWN,
        sizes={split: _sizes(diagnosis, split) for split in survey.splits},
        shares=shares,
        largest=max((s for of in shares.values() for s in of.values() if s), default=1.0),
        tints=display_colors(tuple(survey.table.palette)).tolist(),  # the samples' colours
        samples=samples,
    )


def _sizes(diagnosis: Diagnosis, split: str) -> list[str]:
    """Returns the smallest, the median and the largest size of a split's pictures."""
    sizes = sorted((m.size for m in diagnosis.survey.of(split) if m.size), key=np.prod)
    places = (0, len(sizes) // 2, -1)
    return [f"{sizes[i][0]} x {sizes[i][1]}" for i in places] if sizes else ["n/a"] * 3
