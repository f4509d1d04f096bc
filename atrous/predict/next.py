"""Chooses the pictures most worth labelling: those a model is unsure of, and no two alike.

A model's uncertainty about a picture is 1 less the mean probability of the chosen class, so that it
is the `confidence` of `atrous predict` the other way round. Two pictures are as different as what
the model sees in their parts: the total variation distance between the mean probabilities of the
classes, averaged over a grid of cells. Pictures are chosen one by one, each time the one with the
largest product of uncertainty and difference from the most similar picture chosen before. A near
copy of a chosen picture and a picture without doubts therefore both come late.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atrous.predict.inputs import Source
from atrous.predict.predictor import Predictor

_CELLS = 4  # rows and columns of the grid


@dataclass(frozen=True)
class Seen:
    """What a model makes of a picture.

    Attributes:
        uncertainty: 1 less the mean probability of the chosen class, 0..1.
        layout: (cells, K) float32, mean probability of each class in each cell.
    """

    uncertainty: float
    layout: NDArray[np.float32]


@dataclass(frozen=True)
class Chosen:
    """A picture worth labelling.

    Attributes:
        place: Its place among the pictures, from 0.
        uncertainty: As in `Seen`.
        difference: From the most similar picture chosen before, 0..1; None for the first.
    """

    place: int
    uncertainty: float
    difference: float | None


def look(predictor: Predictor, source: Source | Path) -> Seen:
    """Returns what a model makes of a picture.

    Raises:
        AtrousError: As `Predictor`.
    """
    result = predictor(source)
    stride = predictor.engine.logits_stride
    height, width = (-(-side // stride) for side in result.size)
    sums = np.zeros((_CELLS, _CELLS, len(predictor.classes)))
    counts = np.zeros((_CELLS, _CELLS, 1))
    doubt = 0.0
    for top, left, coarse in result.coarse_parts():
        probabilities = np.exp(coarse - coarse.max(axis=2, keepdims=True))
        probabilities /= probabilities.sum(axis=2, keepdims=True)
        doubt += float((1 - probabilities.max(axis=2)).sum(dtype=np.float64))
        rows = (top + np.arange(coarse.shape[0])) * _CELLS // height
        columns = (left + np.arange(coarse.shape[1])) * _CELLS // width
        for row in np.unique(rows):
            for column in np.unique(columns):
                inside = probabilities[rows == row][:, columns == column]
                sums[row, column] += inside.sum(axis=(0, 1), dtype=np.float64)
                counts[row, column] += inside.shape[0] * inside.shape[1]
    layout = (sums / np.maximum(counts, 1)).reshape(_CELLS**2, -1)  # tiny pictures: empty cells
    return Seen(doubt / (height * width), layout.astype(np.float32))


def choose(seen: Sequence[Seen], count: int) -> list[Chosen]:
    """Returns the pictures most worth labelling, the best first; equal ones in their order.

    Args:
        seen: What the model makes of each picture.
        count: How many pictures; all if there are fewer.
    """
    if not seen:
        return []
    layouts = np.stack([each.layout for each in seen])
    uncertainty = np.array([each.uncertainty for each in seen])
    difference = np.ones(len(seen))
    left = np.ones(len(seen), bool)
    chosen: list[Chosen] = []
    for _ in range(min(count, len(seen))):
        # Of equal products, which may be 0, the more uncertain picture is better.
        best = int(np.lexsort((-uncertainty, -uncertainty * difference, ~left))[0])
        value = float(difference[best]) if chosen else None
        chosen.append(Chosen(best, float(uncertainty[best]), value))
        left[best] = False
        to_best = np.abs(layouts - layouts[best]).sum(axis=2).mean(axis=1) / 2
        difference = np.minimum(difference, to_best)
    return chosen
