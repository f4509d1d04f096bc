#!/usr/bin/env python3
"""Compares models of VOC's classes with what they started from, on two sets of pictures in halves.

python scripts/voc_scores.py START MODEL... --coco coco_voc21 --voc VOC2012

Whole pictures at native size, single scale: mean IoU, mean boundary F-score and mean IoU within
one pixel of the borders, over 21 classes of the first set and seven of the second (`ANIMALS`).
Models are chosen by one half of each set; the other is there to report (`voc_data.choosing`).
Differences have paired 95 % bootstrap intervals over pictures.
"""

import argparse
import hashlib
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
    """Prints a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("start", help="what the differences are to")
    parser.add_argument("models", nargs="*")
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--voc", type=Path, required=True)
    asked = parser.parse_args()
    for path, classes in ((asked.coco, VOC.classes), (asked.voc, ANIMALS)):
        chosen = [VOC.classes.index(name) for name in classes]
        start = measure(asked.start, path)
        choose = np.array([choosing(name) for name in start.names])
        halves = {"all": choose | ~choose, "to choose by": choose, "to report": ~choose}
        for half, which in halves.items():
            print(f"{path.name}, {half}: {which.sum()} pictures, {len(classes)} classes")
            show(asked.start, start, start, which, chosen)
        for model in asked.models:
            found = measure(model, path)
            for half, which in halves.items():
                print(f"{path.name}, {half}")
                show(model, found, start, which, chosen)
            scores = iou(*found.pixels.sum(0))
            before = iou(*start.pixels.sum(0))
            weakest = sorted(chosen, key=lambda index: scores[index])
            listed = (f"{VOC.classes[i]} {scores[i]:.3f} ({before[i]:.3f})" for i in weakest)
            print("  IoU (of the start): " + ", ".join(listed))


def measure(model: str, path: Path) -> Measured:
    """Evaluates a model on a validation set."""
    scores = evaluate(model, open_dataset(path, "val"))
    assert scores.boundaries is not None
    borders = scores.boundaries
    names = np.array(scores.names)
    return Measured(names, scores.per_picture, borders.contours, borders.narrowest)


def show(
    name: str, found: Measured, start: Measured, which: NDArray[np.bool_], chosen: list[int]
) -> None:
    """Prints the three means over some pictures and classes, and how much they are above others."""
    number = int(which.sum())
    draws = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), RESAMPLES)
    cells = []
    for counts, others, score in (
        (found.pixels, start.pixels, of_pixels),
        (found.contours, start.contours, contour_f),
        (found.narrowest, start.narrowest, of_pixels),
    ):
        mine, theirs = (c[which][:, :, chosen].astype(np.float64) for c in (counts, others))
        cell = f"{np.nanmean(score(mine.sum(0))):.4f}"
        if found is not start:
            gain = np.nanmean(score(mine.sum(0))) - np.nanmean(score(theirs.sum(0)))
            low, high = interval(resampled(draws, mine, score) - resampled(draws, theirs, score))
            cell += f" ({gain:+.4f}, {low:+.4f} to {high:+.4f})"
        cells.append(cell)
    print(f"  {name}: mean IoU {cells[0]}, boundary F {cells[1]}, one pixel {cells[2]}", flush=True)


def of_pixels(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the IoU by class of (..., 3, K) counts."""
    return iou(*np.moveaxis(counts, -2, 0))


def resampled(draws: NDArray[np.int64], counts: NDArray[Any], score: Any) -> NDArray[np.float64]:
    """Returns the mean score of each draw of pictures."""
    sums = (draws @ counts.reshape(len(counts), -1)).reshape(len(draws), *counts.shape[1:])
    return np.asarray(np.nanmean(score(sums), axis=-1), dtype=np.float64)


if __name__ == "__main__":
    main()
