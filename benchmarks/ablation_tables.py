"""The tables of docs/ablations.md, from the committed results."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.evaluation.metrics import iou
from atrous.evaluation.uncertainty import Difference, difference

RESULTS = Path(__file__).parent / "results" / "ablations"
COSTS = RESULTS.parent / "ablation_costs.amd-epyc.json"
LABELS = RESULTS.parent / "ablation_labels.json"
WIDTHS = (1, 2, 3, 5, 10, 20, 40)
SIXTHS = 6  # of a run, at which learning curves are shown
FLAT = 0.01  # of mean IoU: a curve is flat if its last third spans less

Results = dict[tuple[str, str], dict[int, dict[str, Any]]]  # by (base, row) and seed


class Table(NamedTuple):
    """Rows of a base, of some seeds or all; differences are to the first row.

    `times` is what the milliseconds are of.
    """

    title: str
    base: str
    rows: Sequence[str]
    times: str = ""
    seeds: Sequence[int] = (0, 1, 2)


FORWARD = "A forward pass of 513 x 513"
UPDATE = "An update of six scenes"
SCENE = "A scene, processor time of one thread"
_BACKBONES = ("xception41", "resnet50", "resnet50_time")
TABLES = (
    Table("The decoder (CamVid)", "street", ("bilinear", "decoder")),
    Table(
        "The decoder (CamVid, statistics measured anew)",
        "street",
        ("bilinear_settled", "decoder_settled"),
    ),
    Table("The decoder (CamVid, twice the updates)", "street", ("bilinear_long", "decoder_long")),
    Table(
        "The decoder (CamVid, twice the updates, statistics measured anew)",
        "street",
        ("bilinear_long_settled", "decoder_long_settled"),
    ),
    Table("The decoder (Cityscapes, small)", "cityscapes", ("bilinear", "decoder")),
    Table(
        "Structure of the decoder (CamVid)",
        "street",
        ("decoder", "one_3x3", "reduced_8", "decoder_intel"),
    ),
    Table(
        "Structure of the decoder (CamVid, on an Intel processor)",
        "street",
        ("decoder_intel", "reduced_64", "dense"),
        seeds=(0,),
    ),
    Table(
        "Separable against dense (CamVid, seed 1)", "street", ("decoder", "dense"), seeds=(1,)
    ),
    Table(
        "Output stride, scales and flip: decoder (CamVid)",
        "street",
        ("decoder", "decoder_8", "decoder_16_ms_flip"),
    ),
    Table("Output stride: bilinear (CamVid)", "street", ("bilinear", "bilinear_8")),
    Table("ResNet against Xception (CamVid)", "street_backbones", _BACKBONES),
    Table("ResNet against Xception (scenes)", "backbones", _BACKBONES),
    Table("The decoder (scenes)", "scenes", ("bilinear", "decoder"), FORWARD),
    Table("The decoder (scenes, random start)", "random", ("bilinear", "decoder")),
    Table("The decoder (photographs)", "animals", ("bilinear", "decoder")),
    Table("The decoder (photographs, faster)", "faster", ("bilinear", "decoder")),
    Table("The decoder (photographs, new heads)", "new_heads", ("bilinear", "decoder")),
    Table(
        "Table 1: reduced channels",
        "short",
        ("decoder", "reduced_8", "reduced_16", "reduced_32", "reduced_64"),
    ),
    Table(
        "Table 2: structure of the decoder",
        "short",
        ("decoder", "one_3x3", "three_3x3", "one_3x3_of_128", "two_3x3_of_128", "one_1x1",
         "conv3_conv2"),
        FORWARD,
    ),
    Table("Separable against dense (short runs)", "short", ("decoder", "dense"), FORWARD),
    Table("Separable against dense (photographs)", "animals", ("decoder", "dense")),
    Table("ASPP", "short", ("decoder", "no_image_pooling", "no_atrous_branches"), FORWARD),
    Table("The ReLU of the paper's text", "xception", ("decoder", "papers_relu")),
    Table("The peer", "short", ("decoder", "smp"), UPDATE),
    Table(
        "Output stride, scales and flip: decoder (scenes)",
        "scenes",
        ("decoder", "decoder_32", "decoder_16_ms_flip", "decoder_8"),
        SCENE,
    ),
    Table(
        "Output stride: bilinear (scenes)",
        "scenes",
        ("bilinear", "bilinear_32", "bilinear_8"),
        SCENE,
    ),
)  # fmt: skip
CURVES = (
    ("street", "decoder"),
    ("street", "bilinear"),
    ("cityscapes", "decoder"),
    ("cityscapes", "bilinear"),
    ("scenes", "decoder"),
    ("scenes", "bilinear"),
    ("random", "decoder"),
    ("random", "bilinear"),
    ("animals", "decoder"),
    ("animals", "bilinear"),
    ("faster", "decoder"),
    ("faster", "bilinear"),
    ("new_heads", "decoder"),
    ("new_heads", "bilinear"),
    ("short", "decoder"),
    ("short", "smp"),
)


def read() -> Results:
    """Returns the committed results by base, row and seed."""
    found: Results = {}
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text())
        found.setdefault((content["base"], content["row"]), {})[content["seed"]] = content
    return found


def tables() -> Iterator[str]:
    """Yields the lines of all tables."""
    found = read()
    for table in TABLES:
        if any((table.base, row) in found for row in table.rows[1:]):
            yield from ("", f"**{table.title}**", "", *_lines(table, found))
    yield from ("", "**Trimap curves**: mean IoU within w pixels of the borders", "")
    yield from _curves(found)
    yield from _bands(found)
    yield from _classes(found)
    yield from _labels()
    yield from _learning(found)
    yield from _losses(found)
    yield from _costs()


def _lines(table: Table, found: Results) -> Iterator[str]:
    """Yields a table: scores are means over a row's seeds, of the reference those others have."""
    times = _times().get(table.times, {})
    timed = f" ms: {table.times[0].lower()}{table.times[1:]} |" if times else ""
    yield (
        f"| row | seeds | steps | parameters | multiply-adds |{timed} mean IoU | at 1 px | "
        "difference, points | at 1 px | commit |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|" + ("---|" if times else "")
    rows = {
        row: {s: r for s, r in found.get((table.base, row), {}).items() if s in table.seeds}
        for row in table.rows
    }
    first, *others = rows
    compared = set().union(*(rows[row] for row in others))
    rows[first] = {seed: r for seed, r in rows[first].items() if seed in compared}
    for row, by_seed in rows.items():
        if not by_seed:
            yield f"| {row} | not run | | | | | | | | |" + (" |" if times else "")
            continue
        one = next(iter(by_seed.values()))
        cells = [
            row,
            _listed(by_seed),
            one["steps"],
            f"{one['parameters']:,}",
            f"{one['multiply_adds'] / 1e6:,.0f} M",
            *([times.get(row, {}).get("median_ms", "")] if times else []),
            f"{np.mean([r['mean_iou'] for r in by_seed.values()]):.4f}",
            f"{np.mean([r['trimap'][0] for r in by_seed.values()]):.4f}",
            *(_gain(rows[first], by_seed, key) for key in ("per_picture", "narrowest")),
            " ".join(sorted({r["commit"] for r in by_seed.values()})),
        ]
        yield f"| {' | '.join(map(str, cells))} |"


def _gain(reference: dict[int, dict[str, Any]], row: dict[int, dict[str, Any]], key: str) -> str:
    """Returns the paired difference to the reference in points, over all common seeds at once.

    The counts of a picture are added over seeds, so a resample takes a picture with all its runs.
    """
    seeds = sorted(set(reference) & set(row))
    if reference is row or not seeds:
        return "-"
    gain = paired(*([by_seed[seed][key] for seed in seeds] for by_seed in (reference, row)))
    shown = f"{100 * gain.mean_iou:+.2f} ({100 * gain.low:+.2f} to {100 * gain.high:+.2f})"
    return shown if set(seeds) == set(row) else f"{shown}, seeds {_listed(seeds)}"


def paired(first: Sequence[Any], second: Sequence[Any]) -> Difference:
    """Compares two rows, given the counts (N, 3, K) of each picture for the same seeds."""
    return difference(_total(first), _total(second))


def _total(counts: Sequence[Any]) -> NDArray[np.int64]:
    return np.sum([np.asarray(c, np.int64) for c in counts], axis=0)


def _listed(seeds: Any) -> str:
    return ", ".join(map(str, sorted(seeds)))


def _curves(found: Results) -> Iterator[str]:
    yield f"| base | row | seeds | {' | '.join(f'{w} px' for w in WIDTHS)} | all |"
    yield f"|---|---|---|{'---|' * (len(WIDTHS) + 1)}"
    for base, row in CURVES:
        if by_seed := found.get((base, row)):
            curve = np.mean([r["trimap"] for r in by_seed.values()], axis=0)
            whole = np.mean([r["mean_iou"] for r in by_seed.values()])
            values = [*(curve[w - 1] for w in WIDTHS), whole]
            shown = " | ".join(f"{value:.3f}" for value in values)
            yield f"| {base} | {row} | {_listed(by_seed)} | {shown} |"


def trimap_of(base: str) -> dict[str, Any]:
    """Returns the differences that `ablation_trimap.py` has measured; {}: none yet."""
    path = RESULTS.parent / f"ablation_trimap_{base}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _bands(found: Results) -> Iterator[str]:
    yield from ("", "**Decoder minus bilinear** within w pixels of the borders, points", "")
    yield "| base | seeds | pictures | w | difference | interval |"
    yield "|---|---|---|---|---|---|"
    for base in ("street", "cityscapes"):
        if gains := trimap_of(base):
            for w in WIDTHS:
                gain, low, high = (100 * gains[key][w - 1] for key in ("difference", "low", "high"))
                cells = (base, _listed(gains["seeds"]), gains["pictures"], w, f"{gain:+.2f}")
                yield f"| {' | '.join(map(str, cells))} | {low:+.2f} to {high:+.2f} |"
            for seed in gains["seeds"]:
                gain = paired(
                    *([found[base, row][seed]["narrowest"]] for row in ("bilinear", "decoder"))
                )
                cells = (base, seed, gains["pictures"], 1, f"{100 * gain.mean_iou:+.2f}")
                shown = f"{100 * gain.low:+.2f} to {100 * gain.high:+.2f}"
                yield f"| {' | '.join(map(str, cells))} | {shown} |"


def _classes(found: Results) -> Iterator[str]:
    yield from ("", "**By class**: bilinear, decoder, and points between them, over all seeds", "")
    yield "| base | class | IoU | | points | at 1 px | | points |"
    yield "|---|---|---|---|---|---|---|---|"
    for base in ("street", "cityscapes"):
        pair = [found.get((base, row), {}) for row in ("bilinear", "decoder")]
        seeds = sorted(set(pair[0]) & set(pair[1]))
        if seeds:
            scores = [
                [iou(*_total([row[seed][key] for seed in seeds]).sum(0)) for row in pair]
                for key in ("per_picture", "narrowest")
            ]
            for k, name in enumerate(pair[0][seeds[0]]["classes"]):
                cells = [
                    f"{first[k]:.3f} | {second[k]:.3f} | {100 * (second - first)[k]:+.1f}"
                    for first, second in scores
                ]
                yield f"| {base} | {name} | {' | '.join(cells)} |"


def _labels() -> Iterator[str]:
    if LABELS.exists():
        yield from ("", "**Labels at borders** (`ablation_labels.py`)", "")
        yield (
            "| data | strongest change of brightness: 0 px away | 1 | 2 | 3 | 4 | 5 | "
            "labels moved by 1 px: at 1 px | 2 px | 5 px |"
        )
        yield f"|---|{'---|' * 9}"
        for name, found in json.loads(LABELS.read_text()).items():
            if name != "commit":
                shares = [n / sum(found["borders"]) for n in found["borders"]]
                cells = (*shares, *(found["moved"][w - 1] for w in (1, 2, 5)))
                yield f"| {name} | {' | '.join(f'{cell:.2f}' for cell in cells)} |"


def _learning(found: Results) -> Iterator[str]:
    """Yields the learning curves, and how flat they end."""
    yield ""
    yield (
        "**Learning curves**: mean IoU on the pictures a run checks itself on, after shares of its "
        f"updates; mean of the seeds; flat: within {100 * FLAT:g} point over the last third"
    )
    yield from ("", "| base | row | seeds | 1/6 | 2/6 | 3/6 | 4/6 | 5/6 | 6/6 | last third |")
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for (base, row), by_seed in found.items():
        curves = [r["curve"] for r in by_seed.values() if len(r.get("curve", ())) >= SIXTHS]
        if curves and "backbones" not in base:
            mean = np.mean([[score for _, _, score in curve] for curve in curves], axis=0)
            steps = np.array([step for step, *_ in curves[0]]) / curves[0][-1][0]
            sixths = [float(np.interp(n / SIXTHS, steps, mean)) for n in range(1, SIXTHS + 1)]
            span = max(sixths[3:]) - min(sixths[3:])
            cells = (base, row, _listed(by_seed), *(f"{score:.3f}" for score in sixths))
            flat = "flat" if span < FLAT else "not flat"
            yield f"| {' | '.join(map(str, cells))} | {100 * span:.1f}, {flat} |"


def _losses(found: Results) -> Iterator[str]:
    """Yields what the backbones from random weights have learnt; see `ablations.settle`."""
    rows = [(key, by_seed) for key, by_seed in found.items() if "backbones" in key[0]]
    if rows:
        yield from ("", "**Training loss from random weights**, mean of the last 50 updates", "")
        yield from ("| base | row | 50 | 100 | 150 | 200 | 250 |", "|---|---|---|---|---|---|---|")
    for (base, row), by_seed in rows:
        losses = [f"{loss:.3f}" for step, loss, _ in by_seed[0]["curve"] if step % 50 == 0]
        yield f"| {' | '.join((base, row, *losses, *['-'] * (5 - len(losses))))} |"


def _times() -> dict[str, dict[str, Any]]:
    return json.loads(COSTS.read_text())["times"] if COSTS.exists() else {}


def _costs() -> Iterator[str]:
    for title, measured in _times().items():
        yield from ("", f"**{title}**", "", "| what | median, ms | quartiles apart, ms | samples |")
        yield "|---|---|---|---|"
        for name, time in measured.items():
            cells = (name, time["median_ms"], time["spread_ms"], time["samples"])
            yield f"| {' | '.join(map(str, cells))} |"
