#!/usr/bin/env python3
"""Compares models of VOC's classes with what they started from, on two sets of pictures in halves.

python scripts/voc_scores.py START MODEL... --coco coco_voc21 --voc VOC2012 [--write]

Whole pictures at native size, single scale: mean IoU, mean boundary F-score and mean IoU within
one pixel of the borders, over 21 classes of the first set and seven of the second (`ANIMALS`).
Models are chosen by one half of each set; the other is there to report (`voc_data.choosing`).
Differences have paired 95 % bootstrap intervals over pictures.

With --write, the scores go into benchmarks/results/voc_scores.json, of which
`python benchmarks/tables.py --write` makes a table of docs/results.md.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.classes import VOC
from atrous.data.opening import open_dataset
from atrous.evaluation.boundary import contour_f
from atrous.evaluation.evaluator import evaluate
from atrous.evaluation.metrics import Counts, iou
from atrous.evaluation.uncertainty import RESAMPLES, interval

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "voc_scores.json"
ANIMALS = ("background", "cat", "cow", "dog", "horse", "person", "sheep")


class Measured(NamedTuple):
    """Counts of each picture, (N, rows, K), by what is computed of their sum."""

    names: NDArray[Any]
    pixels: Counts
    contours: Counts
    narrowest: Counts


def choosing(name: str) -> bool:
    """Says whether a picture is of the half that models are chosen by; its file name decides."""
    return int(hashlib.sha256(Path(name).stem.encode()).hexdigest(), 16) % 2 == 0


def main() -> None:
    """Prints the scores on each set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("start", help="what the differences are to")
    parser.add_argument("models", nargs="*")
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--voc", type=Path, required=True)
    parser.add_argument("--write", action="store_true", help="keep the scores")
    asked = parser.parse_args()
    rows = []
    sets = (("COCO", asked.coco, VOC.classes), ("VOC animals", asked.voc, ANIMALS))
    for title, path, classes in sets:
        chosen = [VOC.classes.index(name) for name in classes]
        start = measure(asked.start, path)
        choose = np.array([choosing(name) for name in start.names])
        halves = {"all": choose | ~choose, "to choose by": choose, "to report": ~choose}
        for model in (asked.start, *asked.models):
            found = start if model == asked.start else measure(model, path)
            for half, which in halves.items():
                head = {"set": title, "half": half, "model": Path(model).name}
                rows.append(head | compare(found, start, which, chosen))
                show(rows[-1])
            scores = iou(*found.pixels.sum(0))
            before = iou(*start.pixels.sum(0))
            weakest = sorted(chosen, key=lambda index: scores[index])
            listed = (f"{VOC.classes[i]} {scores[i]:.3f} ({before[i]:.3f})" for i in weakest)
            print("  IoU (of the start): " + ", ".join(listed))
    if asked.write:
        RESULTS.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


def measure(model: str, path: Path) -> Measured:
    """Evaluates a model on a validation set."""
    scores = evaluate(model, open_dataset(path, "val"))
    assert scores.boundaries is not None
    borders = scores.boundaries
    names = np.array(scores.names)
    return Measured(names, scores.per_picture, borders.contours, borders.narrowest)


def compare(
    found: Measured, start: Measured, which: NDArray[np.bool_], chosen: list[int]
) -> dict[str, Any]:
    """Returns three means over some pictures and classes, and their differences to the start's."""
    number = int(which.sum())
    draws = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), RESAMPLES)
    row: dict[str, Any] = {"pictures": number, "classes": len(chosen)}
    for name, counts, others, score in (
        ("mean_iou", found.pixels, start.pixels, of_pixels),
        ("boundary_f", found.contours, start.contours, contour_f),
        ("one_pixel", found.narrowest, start.narrowest, of_pixels),
    ):
        mine, theirs = (c[which][:, :, chosen].astype(np.float64) for c in (counts, others))
        mean = float(np.nanmean(score(mine.sum(0))))
        row[name] = round(mean, 5)
        if found is not start:
            gain = mean - float(np.nanmean(score(theirs.sum(0))))
            low, high = interval(resampled(draws, mine, score) - resampled(draws, theirs, score))
            row[f"{name}_difference"] = [round(value, 5) for value in (gain, low, high)]
    return row


def show(row: dict[str, Any]) -> None:
    """Prints a row."""
    cells = []
    for name in ("mean_iou", "boundary_f", "one_pixel"):
        cell = f"{name} {row[name]:.4f}"
        if found := row.get(f"{name}_difference"):
            cell += " ({:+.4f}, {:+.4f} to {:+.4f})".format(*found)
        cells.append(cell)
    facts = f"{row['set']}, {row['half']}: {row['pictures']} pictures, {row['classes']} classes"
    print(f"{facts}\n  {row['model']}: {', '.join(cells)}", flush=True)


def of_pixels(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the IoU by class of (..., 3, K) counts."""
    return iou(*np.moveaxis(counts, -2, 0))


def resampled(draws: NDArray[np.int64], counts: NDArray[Any], score: Any) -> NDArray[np.float64]:
    """Returns the mean score of each draw of pictures."""
    sums = (draws @ counts.reshape(len(counts), -1)).reshape(len(draws), *counts.shape[1:])
    return np.asarray(np.nanmean(score(sums), axis=-1), dtype=np.float64)


if __name__ == "__main__":
    main()
