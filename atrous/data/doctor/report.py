"""The doctor's report: one HTML file that needs no other, and a table of all samples."""

import base64
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from atrous import __version__
from atrous.data.contact_sheet import Tile
from atrous.data.doctor.diagnosis import Diagnosis
from atrous.data.doctor.findings import Finding
from atrous.data.doctor.measure import Measurement
from atrous.errors import printable
from atrous.images.decode import atomic
from atrous.predict.overlay import display_colors

_SHOWN = 10  # files of a finding that are named in the HTML; the table has them all

COLUMNS = (
    "splits", "name", "picture", "annotation", "height", "width", "format", "mask", "classes",
    "void_share", "picture_sha256", "annotation_sha256", "problem",
)  # fmt: skip


def write_csv(diagnosis: Diagnosis, path: Path) -> None:
    """Writes a row for each sample. Undecodable characters of names are escaped."""
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
        diagnosis: What was found.
        samples: Split -> pictures and targets to show.
        path: The file.
    """
    page = "\n".join(_page(diagnosis, samples))
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _page(diagnosis: Diagnosis, samples: Mapping[str, Sequence[Tile]]) -> Iterator[str]:
    survey = diagnosis.survey
    name = survey.root.resolve().name
    yield _HEAD.format(title=_text(f"{name}: data report"))
    state = "healthy" if diagnosis.healthy else "sick"
    verdict = "ready to train on" if diagnosis.healthy else "training would go wrong"
    yield f'<header class="{state}"><h1>{_text(name)}</h1><p>{verdict}</p></header><main>'
    yield f"<p>{_text(survey.root)} &middot; recognised as {_text(survey.kind)}, "
    yield f"{len(survey.table.classes)} classes, {len(survey.measurements)} pictures. "
    yield f"{_counts(diagnosis)}.</p>"
    yield "<h2>Findings</h2>"
    yield from map(_finding, diagnosis.findings)
    if not diagnosis.findings:
        yield "<p>None.</p>"
    yield from _splits(diagnosis)
    yield from _classes(diagnosis)
    for split, tiles in samples.items():
        yield f'<h2>Samples of {_text(split)}</h2><div class="tiles">'
        yield from map(_figure, tiles)
        yield "</div>"
    yield f"</main><footer>atrous {__version__}, data check</footer></body></html>"


def _counts(diagnosis: Diagnosis) -> str:
    counted = ((diagnosis.count(level), level) for level in ("error", "warning", "note"))
    return ", ".join(f"{n} {level}{'s' * (n != 1)}" for n, level in counted)


def _finding(finding: Finding) -> str:
    files = "".join(f"<li>{_text(where)}</li>" for where in finding.where[:_SHOWN])
    rest = len(finding.where) - _SHOWN
    more = f"<li>and {rest} more, in data_report.csv</li>" if rest > 0 else ""
    fix = f"<p><b>Fix:</b> {_text(finding.fix)}</p>" if finding.fix else ""
    proposal = f"<pre>{_text(finding.proposal, lines=True)}</pre>" if finding.proposal else ""
    places = f"<ul>{files}{more}</ul>" if files else ""
    return (
        f'<section class="{finding.level}"><p><b>{finding.level}</b> {_text(finding.what)} '
        f"<code>{_text(finding.code)}</code></p>{places}{fix}{proposal}</section>"
    )


def _splits(diagnosis: Diagnosis) -> Iterator[str]:
    yield "<h2>Splits</h2><table><tr><th>split<th>samples<th>smallest<th>median<th>largest"
    yield "<th>unlabelled</tr>"
    for split, indices in diagnosis.survey.splits.items():
        sizes = sorted((m.size for m in diagnosis.survey.of(split) if m.size), key=np.prod)
        places = (0, len(sizes) // 2, -1)
        shown = [f"{sizes[i][0]} x {sizes[i][1]}" for i in places] if sizes else ["n/a"] * 3
        cells = "".join(f"<td>{size}" for size in shown)
        void = f"{diagnosis.void_share(split):.2%}"
        yield f"<tr><td>{_text(split)}<td>{len(indices)}{cells}<td>{void}</tr>"
    yield f"</table><p>Sizes are height x width. A crop of {diagnosis.crop_size} holds nine of ten "
    yield "pictures whole, within 129 and 769.</p>"


def _classes(diagnosis: Diagnosis) -> Iterator[str]:
    survey = diagnosis.survey
    shares = {split: diagnosis.shares(split) for split in survey.splits}
    most = max((s for of in shares.values() for s in of.values() if s), default=1.0)
    yield "<h2>Classes</h2><table><tr><th><th>class<th>weight"
    yield from (f'<th colspan="2">{_text(split)}: share of pixels<th>pictures' for split in shares)
    yield "</tr>"
    tints = display_colors(tuple(survey.table.palette)).tolist()  # as in the pictures
    for k, name in enumerate(survey.table.classes):
        swatch = f'<span class="swatch" style="background:rgb{tuple(tints[k])}"></span>'
        weight = diagnosis.class_weights[k]
        yield f"<tr><td>{swatch}<td>{k} {_text(name)}<td>{'n/a' if weight is None else weight}"
        for split, of in shares.items():
            share = of[name]
            bar = f'<span class="bar" style="width:{(share or 0) / most:.1%}"></span>'
            shown = "n/a" if share is None else f"{share:.3%}"
            yield f'<td>{shown}<td class="chart">{bar}<td>{diagnosis.pictures[split][k]}'
        yield "</tr>"
    yield "</table><p>Weights are median frequency balancing of the training split, for when rare "
    yield "classes matter more than the mean of all pixels. n/a: the class does not occur.</p>"


def _figure(tile: Tile) -> str:
    stream = io.BytesIO()
    tile.image.convert("RGB").save(stream, "JPEG", quality=80)
    data = base64.b64encode(stream.getvalue()).decode()
    caption = _text(tile.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _text(value: object, *, lines: bool = False) -> str:
    """Returns text that is only text in HTML, with control characters made visible."""
    shown = "\n".join(map(printable, str(value).split("\n"))) if lines else printable(value)
    return escape(shown)


_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width"><title>{title}</title><style>
body {{ margin: 0; font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; }}
header {{ color: #fff; padding: 1.2em max(1.5em, 50vw - 38em); }}
header h1 {{ margin: 0; font-size: 1.5em; overflow-wrap: anywhere; }} header p {{ margin: 0; }}
.healthy {{ background: #2a6b45; }} .sick {{ background: #a02c2c; }}
main, footer {{ max-width: 76em; margin: auto; padding: 0 1.5em; }}
h2 {{ margin: 1.6em 0 .5em; font-size: 1.15em; border-bottom: 1px solid #ddd; }}
section {{ border-left: 5px solid; padding: .2em 1em; margin: .7em 0; background: #f7f7f7; }}
section p {{ margin: .3em 0; }} section ul {{ margin: .3em 0; overflow-wrap: anywhere; }}
.error {{ border-color: #c33; }} .warning {{ border-color: #d90; }} .note {{ border-color: #789; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .15em .7em .15em 0; text-align: left; }}
td {{ border-top: 1px solid #eee; white-space: nowrap; font-variant-numeric: tabular-nums; }}
.chart {{ min-width: 8em; }} .bar {{ display: block; height: .8em; background: #4a7fb5; }}
.swatch {{ display: inline-block; width: 1em; height: 1em; border: 1px solid #888; }}
pre {{ background: #fff; border: 1px solid #ddd; padding: .6em; max-height: 20em; overflow: auto; }}
code {{ color: #666; }}
.tiles {{ display: grid; grid-template-columns: repeat(4, 1fr); gap: 1em; }}
@media (max-width: 60em) {{ .tiles {{ grid-template-columns: repeat(2, 1fr); }} }}
figure {{ margin: 0; }} figure img {{ max-width: 100%; display: block; }}
figcaption {{ font-size: .85em; color: #555; overflow-wrap: anywhere; }}
footer {{ color: #888; padding: 2em 1.5em; }}
</style></head><body>"""
