"""Segmentation of a picture in tiles: computed again whenever it is asked for, never whole."""

from collections import deque
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous.classes import Color
from atrous.engines.protocol import Engine
from atrous.images.png_rows import IndexPng
from atrous.images.tiff_windows import Windows
from atrous.predict import overlay, tiles, upsample
from atrous.predict.segmentation import Segmentation, labels_of, shares

_OVERLAY_SIDE = 2048  # longest side of the overlay, at most


class TiledSegmentation(Segmentation):
    """The classes of a picture that is too large for the network to see whole.

    Nothing is kept but how to see it: `labels`, `probability` and `save` go through the tiles when
    they are called, and `save` never holds more than a row of them. The overlay is reduced.
    """

    _engine: Engine
    _picture: Windows
    _grid: tiles.Grid

    def __init__(
        self, engine: Engine, picture: Windows, grid: tiles.Grid, unknown_below: float = 0.0
    ) -> None:
        values: dict[str, Any] = {"classes": engine.classes, "palette": engine.palette}
        values |= {"_engine": engine, "_picture": picture, "_grid": grid}
        self.__dict__.update(values, unknown_below=unknown_below)

    @cached_property
    def image(self) -> Image.Image:
        """The picture as it was segmented, upright RGB; decoded whole when asked for."""
        return Image.fromarray(self._picture.read(0, 0, *self.size))

    @cached_property
    def labels(self) -> overlay.Labels:
        """(H, W) uint8, or uint16 for more than 256 classes, the unknown among them."""
        dtype = np.uint8 if len(self._stored_palette) <= 256 else np.uint16
        result, top = np.empty(self.size, dtype), 0
        for rows in self._rows_of_labels():
            result[top : top + len(rows)] = rows
            top += len(rows)
        return result

    @cached_property
    def areas(self) -> dict[str, float]:
        """Share of the picture of each class that occurs, largest first; they sum to 1."""
        deque(self._rows_of_labels(), maxlen=0)
        return self.areas

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self._picture.size

    def probability(self, name: str) -> NDArray[np.float32]:
        """Returns the probability (softmax) of a class at every pixel, (H, W) in 0..1.

        Raises:
            AtrousError: The model has no such class.
        """
        index, stride = self._index(name), self._engine.logits_stride
        result = np.empty(self.size, np.float32)
        for part in tiles.parts(self._engine, self._picture, self._grid):
            height, width = size = part.image.shape[:2]
            place = np.s_[part.top : part.top + height, part.left : part.left + width]
            result[place] = upsample.probability(part.coarse, stride, size, index)
        return result

    def _rows_of_labels(self) -> Iterator[overlay.Labels]:
        """Yields the labels of each row of tiles; after the last, areas and overlay are known."""
        width, stride = self.size[1], self._engine.logits_stride
        counts = np.zeros(2**16, np.int64)
        reduced = _Reduced(self.size)
        for part in tiles.parts(self._engine, self._picture, self._grid):
            labels = labels_of(part.coarse, stride, part.image.shape[:2], self.unknown_below)
            if part.left == 0:
                rows = np.empty((len(labels), width), labels.dtype)
            rows[:, part.left : part.left + labels.shape[1]] = labels
            counts += np.bincount(labels.ravel(), minlength=len(counts))
            reduced.add(part, labels)
            if part.left + labels.shape[1] == width:
                yield rows
        self.__dict__["areas"] = shares(self.classes, counts)
        self.__dict__["_tinted"] = reduced.overlay(self.palette)

    @cached_property
    def _tinted(self) -> Image.Image:
        deque(self._rows_of_labels(), maxlen=0)
        return self._tinted

    def _save_labels(self, path: Path) -> None:
        with IndexPng(path, self.size, self._stored_palette) as png:
            for rows in self._rows_of_labels():
                png.write(rows)


class _Reduced:
    """Picture and labels, smaller by a power of two, put together from parts."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.step = 1
        while max(size) > _OVERLAY_SIDE * self.step and self.step < tiles.ALIGNMENT:
            self.step *= 2
        height, width = (-(-side // self.step) for side in size)
        self.image = np.empty((height, width, 3), np.uint8)
        self.labels = np.empty((height, width), np.uint16)

    def add(self, part: tiles.Part, labels: overlay.Labels) -> None:
        image = np.asarray(Image.fromarray(part.image).reduce(self.step))
        top, left = part.top // self.step, part.left // self.step
        place = np.s_[top : top + image.shape[0], left : left + image.shape[1]]
        self.image[place] = image
        self.labels[place] = labels[:: self.step, :: self.step]

    def overlay(self, palette: tuple[Color, ...]) -> Image.Image:
        return overlay.overlay(Image.fromarray(self.image), self.labels, palette)
