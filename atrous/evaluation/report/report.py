"""The evaluation's report: one HTML file that needs no other, readable at a glance."""

import base64
import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np

from atrous import __version__
from atrous.errors import printable
from atrous.evaluation import metrics
from atrous.evaluation.report import charts
from atrous.evaluation.report.gallery import Gallery, Shown
from atrous.evaluation.scores import Scores
from atrous.images.decode import atomic
from atrous.predict.overlay import brightened

MAX_MATRIX = 25  # classes in a confusion matrix; of more, the largest confusions are listed
_CONFUSIONS = 20


class Evaluated(NamedTuple):
    """One model's part of a report."""

    name: str
    scores: Scores
    gallery: Gallery


def write_html(models: Sequence[Evaluated], path: Path) -> None:
    """Writes the report of one model, or of two side by side.

    Args:
        models: One or two models evaluated on the same pictures.
        path: The file.
    """
    page = "\n".join(_page(models))
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _page(models: Sequence[Evaluated]) -> Iterator[str]:
    first = models[0]
    title = " and ".join(_text(model.name) for model in models)
    yield _HEAD.format(title=f"{title}: evaluation")
    yield f"<header><h1>{title}</h1><p>{_summary(first.scores)}</p></header><main>"
    yield '<div class="cards">'
    for color, model in zip(charts.COLORS, models, strict=False):
        yield from _card(model, color)
    if len(models) == 2:
        yield from _difference(*models)
    yield "</div>"
    yield from _charts(models)
    yield from _classes(models)
    for model in models:
        of = f" of {_text(model.name)}" if len(models) > 1 else ""
        yield f"<h2>What is taken for what{of}</h2>"
        yield from _confusions(model.scores)
    for model in models:
        of = f" of {_text(model.name)}" if len(models) > 1 else ""
        yield f"<h2>Best and worst pictures{of}</h2>"
        yield "<p>Left: predicted; right: true (unlabelled pixels are not tinted).</p>"
        yield from _pictures(model)
    yield from _protocol(models)
    yield f"</main><footer>atrous {__version__}, evaluate</footer></body></html>"


def _summary(scores: Scores) -> str:
    p = scores.protocol
    scales = ", ".join(f"{scale:g}" for scale in p["scales"])
    padded = " x ".join(map(str, p["pad_to"])) if p["pad_to"] else ""
    parts = (
        f"{p['pictures']} pictures",
        f"{p['labelled_pixels'] / 1e6:.1f} million labelled pixels",
        f"output stride {p['output_stride']}" if p["output_stride"] else "",
        f"scale {scales}" if len(p["scales"]) == 1 else f"scales {scales}",
        "with flip" if p["flip"] else "",
        f"padded to {padded}" if padded else "pictures at their own size",
        f"windows of {' x '.join(map(str, p['window']))}" if p["window"] else "",
    )
    return _text(" · ".join(part for part in parts if part))


def _card(model: Evaluated, color: str) -> Iterator[str]:
    scores = model.scores
    low, high = scores.mean_iou_interval
    over = scores.protocol["mean_over"]
    which = "over all classes that occur" if isinstance(over, str) else f"over {len(over)} classes"
    yield f'<section style="border-color:{color}"><h3>{_text(model.name)}</h3>'
    yield f'<p class="big">{_share(scores.mean_iou)}</p>'
    yield f"<p>mean IoU {which}; 95 % of resampled sets: {_share(low)} to {_share(high)}</p><dl>"
    result = scores.as_dict()
    for name, key in (
        ("pixel accuracy", "pixel_accuracy"),
        ("mean accuracy", "mean_accuracy"),
        ("frequency-weighted IoU", "frequency_weighted_iou"),
        ("boundary IoU", "mean_boundary_iou"),
        ("boundary F-score", "mean_boundary_f"),
        ("calibration error", "expected_calibration_error"),
    ):
        if key in result:
            yield f"<dt>{name}<dd>{_share(result[key])}"
    yield "</dl></section>"


def _difference(first: Evaluated, second: Evaluated) -> Iterator[str]:
    gain = second.scores.minus(first.scores)
    common = second.scores.common_mean_over(first.scores)
    same = common == first.scores.mean_over == second.scores.mean_over
    which = "" if same else f" over the {len(common)} classes that both average over"
    clear = gain.low > 0 or gain.high < 0
    verdict = "These pictures tell the two apart." if clear else "These pictures cannot tell."
    yield '<section style="border-color:#777"><h3>Difference</h3>'
    yield f'<p class="big">{100 * gain.mean_iou:+.2f}</p>'
    yield f"<p>points of mean IoU{which}, {_text(second.name)} minus {_text(first.name)}; "
    yield f"95 % of paired resamples: {100 * gain.low:+.2f} to {100 * gain.high:+.2f}. "
    yield f"<b>{verdict}</b> The second is better in {gain.better:.0%} of them.</p></section>"


def _charts(models: Sequence[Evaluated]) -> Iterator[str]:
    yield '<div class="charts">'
    if models[0].scores.trimap:
        curves = {model.name: model.scores.trimap for model in models}
        yield "<figure><h2>Sharpness: mean IoU close to borders</h2>"
        yield charts.lines(curves, "width of the band, pixels", "mean IoU")
        yield "</figure>"
    yield "<figure><h2>Calibration: can confidence be believed?</h2>"
    yield charts.reliability({model.name: model.scores.reliability for model in models})
    yield "</figure></div>"


def _classes(models: Sequence[Evaluated]) -> Iterator[str]:
    scores = models[0].scores
    pixels = scores.confusion.sum(1)
    accuracy = metrics.class_accuracy(scores.confusion)
    columns = {"share of pixels": pixels / max(int(pixels.sum()), 1), "accuracy": accuracy}
    if scores.boundaries is not None:
        columns["boundary IoU"] = scores.boundaries.boundary_iou()
        columns["boundary F"] = scores.boundaries.boundary_f()
    heads = "".join(f"<th>{name}" for name in columns)
    others = "".join(
        f'<th class="model">IoU of {_text(model.name)}<th>gain' for model in models[1:]
    )
    yield '<h2>Classes</h2><div class="wide"><table class="numbers">'
    yield f'<tr><th>class<th colspan="2">IoU{others}{heads}</tr>'
    names = tuple(dict.fromkeys(name for model in models for name in model.scores.own_classes))
    colors = {  # as in the first model's pictures
        name: color
        for model in reversed(models)
        for name, color in zip(
            model.scores.classes, brightened(model.gallery.palette), strict=False
        )
    }
    values = {  # by class: those of the first model, which may not have it
        name: [f"<td>{_share(column[index])}" for column in columns.values()]
        for index, name in enumerate(scores.own_classes)
    }
    ious = np.array([_ious(model.scores, names) for model in models])
    for name, (first, *rest) in zip(names, ious.T.tolist(), strict=True):
        if all(np.isnan(value) for value in (first, *rest)):
            continue
        swatch = "#{:02x}{:02x}{:02x}".format(*colors[name])
        counted = any(name in model.scores.mean_over for model in models)
        grey = "" if counted else ' class="aside" title="not in the mean"'
        width = 0 if np.isnan(first) else 100 * first
        yield f'<tr{grey}><td><i class="swatch" style="background:{swatch}"></i> '
        yield f"{_text(name)}<td>{_share(first)}"
        yield f'<td class="chart"><i class="bar" style="width:{width:.1f}%"></i>'
        for other in rest:
            gain = 100 * (other - first)
            yield f"<td>{_share(other)}<td>" + ("n/a" if np.isnan(gain) else f"{gain:+.1f}")
        yield "".join(values.get(name, ["<td>n/a"] * len(columns))) + "</tr>"
    yield "</table></div>"
    absent = [n for n, v in scores.class_iou.items() if v is None]
    if absent:
        yield f"<p>In neither labels nor predictions: {_text(', '.join(absent))}.</p>"
    for model in models:
        if model.scores.lacking:
            yield f"<p>{_text(model.name)} lacks {_text(', '.join(model.scores.lacking))}: "
            yield f"{_text(model.scores.protocol['lacking_classes'])}.</p>"


def _ious(scores: Scores, names: Sequence[str]) -> list[float]:
    """Returns the IoU of classes by name, NaN for those that have none."""
    known = scores.class_iou
    values = (known.get(name) for name in names)
    return [float("nan") if value is None else value for value in values]


def _confusions(scores: Scores) -> Iterator[str]:
    counts = scores.confusion
    occur = np.flatnonzero(counts.sum(0) + counts.sum(1))
    predictable = occur[occur < len(scores.own_classes)]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = [_text(name) for name in scores.classes]
    if len(occur) > MAX_MATRIX:
        apart = counts * ~np.eye(len(counts), dtype=bool)
        order = np.argsort(apart, axis=None)[::-1][:_CONFUSIONS]
        yield "<table><tr><th>true<th>predicted<th>of the true pixels</tr>"
        for i, j in zip(*np.unravel_index(order, counts.shape), strict=True):
            yield f"<tr><td>{names[i]}<td>{names[j]}<td>{_share(share[i, j])}</tr>"
        yield "</table>"
        return
    yield "<p>Each row: where the pixels of a true class went, in percent.</p>"
    heads = "".join(f'<th class="tilt"><span>{names[j]}</span>' for j in predictable)
    yield f'<div class="wide"><table class="matrix"><tr><th>{heads}</tr>'
    for i in occur:
        if not counts[i].any():
            continue  # predicted only: a column without a row
        yield f"<tr><th>{names[i]}"
        for j in predictable:
            value = share[i, j]
            good = "37,99,168" if i == j else "208,98,43"
            strength = 0.75 * value if i == j else min(0.85, 4 * value)
            ink = "#fff" if strength > 0.5 else "#222"
            text = f"{100 * value:.1f}" if value >= 0.0005 else ""
            yield f'<td style="background:rgba({good},{strength:.2f});color:{ink}">{text}'
        yield "</tr>"
    yield "</table></div>"


def _pictures(model: Evaluated) -> Iterator[str]:
    for index, name in enumerate(model.scores.own_classes):
        best, worst = (kept.get(index, []) for kept in (model.gallery.best, model.gallery.worst))
        if not best:
            continue
        yield f'<h3>{_text(name)}</h3><div class="tiles">'
        yield "".join(_figure("best", shown) for shown in best)
        known = {shown.name for shown in best}
        yield "".join(_figure("worst", shown) for shown in worst if shown.name not in known)
        yield "</div>"


def _figure(kind: str, shown: Shown) -> str:
    images = "".join(
        f'<img alt="{what}" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
        for what, data in (("predicted", shown.predicted), ("true", shown.true))
    )
    caption = f"<b>{kind}</b> IoU {_share(shown.iou)} &middot; {_text(shown.name)}"
    return f'<figure class="pair"><div>{images}</div><figcaption>{caption}</figcaption></figure>'


def _protocol(models: Sequence[Evaluated]) -> Iterator[str]:
    yield "<h2>Protocol</h2><table class='protocol'><tr><th>"
    yield "".join(f"<th>{_text(model.name)}" for model in models) + "</tr>"
    protocols = [model.scores.protocol for model in models]
    for key in dict.fromkeys(key for protocol in protocols for key in protocol):
        values = [json.dumps(p.get(key), ensure_ascii=False).strip('"') for p in protocols]
        if len(set(values)) == 1:
            cells = f'<td colspan="{len(models)}">{_text(values[0])}'
        else:
            cells = "".join(f"<td>{_text(value)}" for value in values)
        yield f"<tr><th>{_text(key.replace('_', ' '))}{cells}</tr>"
    yield "</table>"


def _share(value: float | None) -> str:
    return "n/a" if value is None or np.isnan(value) else f"{100 * value:.2f} %"


def _text(value: object) -> str:
    return escape(printable(value))


_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width"><title>{title}</title><style>
body {{ margin: 0; font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; }}
header {{ color: #fff; background: #23364d; padding: 1.2em max(1.5em, 50vw - 36.5em); }}
header h1 {{ margin: 0; font-size: 1.5em; overflow-wrap: anywhere; }} header p {{ margin: 0; }}
main, footer {{ max-width: 76em; margin: auto; padding: 0 1.5em; }}
h2 {{ margin: 1.6em 0 .5em; font-size: 1.15em; border-bottom: 1px solid #ddd; }}
h3 {{ margin: 1em 0 .4em; font-size: 1em; overflow-wrap: anywhere; }}
.cards, .charts {{ display: grid; gap: 1.5em; margin-top: 1.5em;
 grid-template-columns: repeat(auto-fit, minmax(min(20em, 100%), 1fr)); }}
section {{ border-left: 5px solid; padding: .2em 1em .6em; background: #f7f7f7; }}
.big {{ font-size: 2.6em; line-height: 1.1; margin: .1em 0; font-weight: 600; }}
section p {{ margin: .3em 0; overflow-wrap: anywhere; }}
dl {{ display: grid; grid-template-columns: 1fr auto; margin: 0; }}
dt, dd {{ margin: 0; border-top: 1px solid #e3e3e3; font-variant-numeric: tabular-nums; }}
.charts h2 {{ margin-top: 0; }} svg {{ width: 100%; max-width: 36em; }}
svg text {{ font-size: 12px; fill: #444; }}
.key span {{ margin-right: 1.2em; }} .key i {{ display: inline-block; width: .9em; height: .9em;
 margin-right: .4em; vertical-align: -.1em; }} .key {{ margin: 0; overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .15em .7em .15em 0; text-align: left; }}
td {{ border-top: 1px solid #eee; font-variant-numeric: tabular-nums; }}
th {{ vertical-align: bottom; font-weight: 600; }}
.numbers td {{ white-space: nowrap; }} .model {{ max-width: 12em; overflow-wrap: anywhere; }}
.aside {{ color: #888; }} .chart {{ width: 10em; }}
.bar {{ display: block; height: .8em; background: #2563a8; }} .aside .bar {{ background: #bbb; }}
.swatch {{ display: inline-block; width: .9em; height: .9em; border: 1px solid #888; }}
.wide {{ overflow-x: auto; }}
.matrix {{ font-size: .85em; }} .matrix td {{ min-width: 2.9em; padding: .2em .3em;
 text-align: right; border: 1px solid #fff; }} .matrix th {{ padding-right: .6em; }}
.tilt {{ height: 6.5em; }} .tilt span {{ display: inline-block; writing-mode: vertical-rl;
 transform: rotate(180deg); }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(26em, 100%), 1fr));
 gap: 1em; }}
figure {{ margin: 0; }} .pair div {{ display: grid; grid-template-columns: 1fr 1fr; gap: 3px; }}
.pair img {{ width: 100%; display: block; }}
figcaption {{ font-size: .85em; color: #555; overflow-wrap: anywhere; }}
.protocol {{ font-size: .85em; }} .protocol td {{ overflow-wrap: anywhere; }}
.protocol th {{ white-space: nowrap; vertical-align: top; }}
footer {{ color: #888; padding: 2em 1.5em; }}
</style></head><body>"""
