"""Keeps the pictures with the best and the worst IoU of each class for the report."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous.classes import Color, Labels
from atrous.data.html_page import jpeg
from atrous.evaluation.evaluator import Outcome
from atrous.predict import overlay

KEPT = 2  # of the best and of the worst of each class
SMALLEST = 0.01  # a class must cover this share of a picture: IoU of slivers is noise
_SIDE = 300  # of a shown picture, in pixels


class Shown(NamedTuple):
    """A picture of the gallery, for one class."""

    iou: float
    name: str
    predicted: str  # address of a JPEG: the picture tinted by predicted class
    true: str  # the same, tinted by true class


class Gallery:
    """Keeps the best and the worst pictures of each class; pass it to `evaluate(on_picture=)`.

    Attributes:
        palette: Colours of the classes.
        best: By class, best first.
        worst: By class, worst first.
    """

    def __init__(self) -> None:
        self.palette: tuple[Color, ...] = ()
        self.best: dict[int, list[Shown]] = {}
        self.worst: dict[int, list[Shown]] = {}

    def __call__(self, outcome: Outcome) -> None:
        """Keeps the picture for each class for which it is among the best or the worst."""
        target, labels, self.palette = outcome.target, outcome.labels, outcome.palette
        shown: tuple[str, str] | None = None
        for index in np.flatnonzero(np.bincount(target.ravel())[: len(self.palette)]):
            true, predicted = target == index, (labels == index) & (target < len(self.palette))
            if true.mean() < SMALLEST:
                continue
            iou = float((true & predicted).sum() / (true | predicted).sum())
            for kept, sign in ((self.best, -1), (self.worst, 1)):
                places = kept.setdefault(int(index), [])
                if len(places) == KEPT and sign * iou >= sign * places[-1].iou:
                    continue
                shown = shown or (
                    self._jpeg(outcome.image, labels), self._jpeg(outcome.image, target)
                )  # fmt: skip
                places.append(Shown(iou, outcome.name, *shown))
                places.sort(key=lambda entry: sign * entry.iou)
                del places[KEPT:]

    def _jpeg(self, image: NDArray[np.uint8], labels: Labels) -> str:
        tinted = overlay.overlay(Image.fromarray(image), labels, self.palette)
        tinted.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
        return jpeg(tinted, quality=85)
