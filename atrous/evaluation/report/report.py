"""The report of an evaluation: one HTML file that needs no other file."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from atrous.data.html_page import write_page
from atrous.errors import printable
from atrous.evaluation import metrics
from atrous.evaluation.report import charts
from atrous.evaluation.report.gallery import Gallery, Shown
from atrous.evaluation.scores import HEADLINES, Scores
from atrous.predict.overlay import display_colors

MAX_MATRIX = 25  # classes in a confusion matrix; of more, the largest confusions are listed
_CONFUSIONS = 20


class Evaluated(NamedTuple):
    """One model's part of a report."""

    name: str
    scores: Scores
    gallery: Gallery

    @property
    def headlines(self) -> list[tuple[str, float]]:
        """Scores below the mean IoU: name and value."""
        found = self.scores.as_dict()
        return [(name, found[key]) for name, key in HEADLINES if key in found]

    @property
    def _shares(self) -> Any:
        """(K, K): where the pixels of each true class went; a row sums to 1."""
        counts = self.scores.confusion
        return counts / np.maximum(counts.sum(1, keepdims=True), 1)

    @property
    def _occurring(self) -> Any:
        counts = self.scores.confusion
        return np.flatnonzero(counts.sum(0) + counts.sum(1))

    @property
    def confusions(self) -> list[tuple[str, str, float]] | None:
        """The largest confusions, where a matrix would have too many classes; else None."""
        if len(self._occurring) <= MAX_MATRIX:
            return None
        counts, names = self.scores.confusion, self.scores.classes
        wrong = counts * ~np.eye(len(counts), dtype=bool)
        order = np.argsort(wrong, axis=None)[::-1][:_CONFUSIONS]
        pairs = zip(*np.unravel_index(order, counts.shape), strict=True)
        return [(names[i], names[j], self._shares[i, j]) for i, j in pairs]

    @property
    def matrix(self) -> dict[str, Any]:
        """The confusion matrix in percent: predicted classes, and a row for each true class."""
        occurring, names = self._occurring, self.scores.classes
        predictable = occurring[occurring < len(self.scores.own_classes)]
        rows = [
            (names[i], [_cell(self._shares[i, j], right=i == j) for j in predictable])
            for i in occurring
            if self.scores.confusion[i].any()  # a class that is only predicted has no row
        ]
        return {"predicted": [names[j] for j in predictable], "rows": rows}

    @property
    def pictures(self) -> Iterator[tuple[str, list[tuple[str, Shown]]]]:
        """The best and worst pictures of each class that has any."""
        for index, name in enumerate(self.scores.own_classes):
            best, worst = (of.get(index, []) for of in (self.gallery.best, self.gallery.worst))
            known = {shown.name for shown in best}
            shown = [("best", picture) for picture in best]
            shown += [("worst", picture) for picture in worst if picture.name not in known]
            if shown:
                yield name, shown


def write_html(models: Sequence[Evaluated], path: Path) -> None:
    """Writes the report of one model, or of two side by side.

    Args:
        models: One or two models evaluated on the same pictures.
        path: The file.
    """
    first = models[0].scores
    trimap = {model.name: model.scores.trimap for model in models} if first.trimap else None
    write_page(
        "atrous.evaluation.report",
        path,
        {"share": _share, "plain": printable, "points": _points},
        title=" and ".join(printable(model.name) for model in models),
        summary=_summary(first),
        models=models,
        colors=charts.COLORS,
        of=lambda model: f" of {printable(model.name)}" if len(models) > 1 else "",
        trimap=trimap and charts.lines(trimap, "width of the band, pixels", "mean IoU"),
        reliability=charts.reliability({m.name: m.scores.reliability for m in models}),
        columns=list(_columns(first)),
        classes=list(_classes(models)),
        absent=[name for name, value in first.class_iou.items() if value is None],
        protocol=list(_protocol(models)),
        **_difference(models),
    )


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
    return printable(" · ".join(part for part in parts if part))


def _difference(models: Sequence[Evaluated]) -> dict[str, Any]:
    """Returns the gain of the second model; `common` is set if the models average differently."""
    if len(models) < 2:
        return {"gain": None}
    first, second = (model.scores for model in models)
    common = second.common_mean_over(first)
    same = common == first.mean_over == second.mean_over
    return {"gain": second.minus(first), "common": None if same else common}


def _columns(scores: Scores) -> dict[str, Any]:
    """Returns the further columns of the class table, for the classes of the first model."""
    pixels = scores.confusion.sum(1)
    columns = {
        "share of pixels": pixels / max(int(pixels.sum()), 1),
        "accuracy": metrics.class_accuracy(scores.confusion),
    }
    if scores.boundaries is not None:
        columns["boundary IoU"] = scores.boundaries.boundary_iou()
        columns["boundary F"] = scores.boundaries.boundary_f()
    return columns


def _classes(models: Sequence[Evaluated]) -> Iterator[dict[str, Any]]:
    """Yields a row of the class table for each class that occurs and that any model has."""
    columns = _columns(models[0].scores).values()
    own = models[0].scores.own_classes
    names = tuple(dict.fromkeys(name for model in models for name in model.scores.own_classes))
    colors = {  # as in the first model's pictures
        name: "#{:02x}{:02x}{:02x}".format(*color)
        for model in reversed(models)
        for name, color in zip(
            model.scores.classes, display_colors(tuple(model.gallery.palette)), strict=False
        )
    }
    for name in names:
        first, *rest = (_iou(model.scores, name) for model in models)
        if all(np.isnan(value) for value in (first, *rest)):
            continue
        gains = [100 * (other - first) for other in rest]
        yield {
            "name": name,
            "color": colors[name],
            "counted": any(name in model.scores.mean_over for model in models),
            "iou": first,
            "width": 0 if np.isnan(first) else 100 * first,
            "others": [
                (iou, "n/a" if np.isnan(gain) else f"{gain:+.1f}")
                for iou, gain in zip(rest, gains, strict=True)
            ],
            # The second model may have classes that the first one lacks.
            "cells": [c[own.index(name)] if name in own else None for c in columns],
        }


def _iou(scores: Scores, name: str) -> float:
    value = scores.class_iou.get(name)
    return float("nan") if value is None else value


def _cell(value: float, *, right: bool) -> dict[str, Any]:
    strength = 0.75 * value if right else min(0.85, 4 * value)
    return {
        "color": "37,99,168" if right else "208,98,43",
        "strength": strength,
        "ink": "#fff" if strength > 0.5 else "#222",
        "text": f"{100 * value:.1f}" if value >= 0.0005 else "",
    }


def _protocol(models: Sequence[Evaluated]) -> Iterator[tuple[str, list[str]]]:
    protocols = [model.scores.protocol for model in models]
    for key in dict.fromkeys(key for protocol in protocols for key in protocol):
        values = [json.dumps(p.get(key), ensure_ascii=False).strip('"') for p in protocols]
        yield key.replace("_", " "), values


def _share(value: float | None) -> str:
    return "n/a" if value is None or np.isnan(value) else f"{100 * value:.2f} %"


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"
