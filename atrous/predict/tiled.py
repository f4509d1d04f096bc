"""The segmentation of a picture in tiles, which is computed whenever it is asked for."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous.classes import Color, Labels
from atrous.engines.protocol import Engine
from atrous.images.bands import Bands, bands_of
from atrous.images.decode import atomic
from atrous.images.png_rows import png_rows
from atrous.images.raster import NoData, Place
from atrous.images.tiff_windows import Windows
from atrous.predict import overlay, tiles, upsample
from atrous.predict.records import MARK
from atrous.predict.segmentation import (
    OutputFiles,
    Segmentation,
    labels_of,
    shares,
    without_data,
)

Writer = Callable[[NDArray[Any]], None]  # takes rows (n, W)

_OVERLAY_SIDE = 2048  # the overlay's longest side


class Rows(NamedTuple):
    """Some rows of a picture.

    Attributes:
        image: (n, W, 3), RGB; None unless asked for.
        labels: (n, W).
        probabilities: (n, W) float32 of each class that was asked for.
    """

    image: NDArray[np.uint8] | None
    labels: Labels
    probabilities: dict[str, NDArray[np.float32]]


class TiledSegmentation(Segmentation):
    """The classes of a picture that is too large for the network to see whole.

    The result holds the way to see the picture and no pixels: `labels`, `probability` and `save`
    go through the tiles when they are called, and `save` holds a row of tiles at a time. The
    overlay is reduced.
    """

    _engine: Engine
    _picture: Windows
    _grid: tiles.Grid
    _no_data: NoData
    _bands: Bands

    def __init__(
        self,
        engine: Engine,
        picture: Windows,
        grid: tiles.Grid,
        unknown_below: float = 0.0,
        *,
        place: Place | None = None,
        no_data: NoData = (),
    ) -> None:
        values: dict[str, Any] = {"classes": engine.classes, "palette": engine.palette}
        values |= {"_engine": engine, "_picture": picture, "_grid": grid}
        values |= {"place": place, "_no_data": no_data, "_bands": bands_of(engine)}
        self.__dict__.update(values, unknown_below=unknown_below, notes=picture.notes)

    @cached_property
    def image(self) -> Image.Image:
        """The picture as it was segmented, upright RGB; decoded whole when asked for."""
        return Image.fromarray(self._bands.shown(self._picture.read(0, 0, *self.size)))

    @cached_property
    def labels(self) -> Labels:
        """(H, W) uint8, or uint16 for more than 256 classes, the unknown among them."""
        return np.concatenate([rows.labels for rows in self._rows()])

    @cached_property
    def areas(self) -> dict[str, float]:
        """Share of the picture of each class that occurs, largest first; they sum to 1."""
        return self._after_all_rows("areas")

    @cached_property
    def confidence(self) -> float:
        """Mean probability of the chosen class, 1/K..1, over the grid of the coarse logits."""
        return self._after_all_rows("confidence")

    @cached_property
    def _tinted(self) -> Image.Image:
        return self._after_all_rows("_tinted")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self._picture.size

    def coarse_parts(self) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        """Yields the coarse logits in parts: first row and column in their grid, and (h, w, K)."""
        stride = self._engine.logits_stride
        for part in tiles.parts(self._engine, self._picture, self._grid):
            height, width = (-(-side // stride) for side in part.image.shape[:2])
            yield part.top // stride, part.left // stride, part.coarse[:height, :width]

    def probability(self, name: str) -> NDArray[np.float32]:
        """Returns the probability (softmax) of a class at every pixel, (H, W) in 0..1.

        Raises:
            AtrousError: The model has no such class.
        """
        self._index(name)
        return np.concatenate([rows.probabilities[name] for rows in self._rows([name])])

    def _after_all_rows(self, attribute: str) -> Any:
        deque(self._rows(), maxlen=0)
        return self.__dict__[attribute]

    def _rows(self, names: Sequence[str] = (), *, image: bool = False) -> Iterator[Rows]:
        """Yields the rows of each row of tiles.

        After the last, `areas`, `confidence` and the overlay are known.

        Args:
            names: Classes whose probabilities are wanted.
            image: Whether the picture itself is.
        """
        width, stride = self.size[1], self._engine.logits_stride
        counts = np.zeros(2**16, np.int64)
        reduced, sure, positions = _Reduced(self.size), 0.0, 0
        for part in tiles.parts(self._engine, self._picture, self._grid):
            size = part.image.shape[:2]
            labels = labels_of(part.coarse, stride, size, self.unknown_below)
            labels = without_data(labels, part.image, self._no_data, len(self.classes))
            shown = self._bands.shown(part.image)
            counts += np.bincount(labels.ravel(), minlength=len(counts))
            reduced.add(part, shown, labels)
            own = part.coarse[: -(-size[0] // stride), : -(-size[1] // stride)]
            sure += upsample.mean_confidence(own) * own.shape[0] * own.shape[1]
            positions += own.shape[0] * own.shape[1]
            if part.left == 0:
                row = Rows(
                    np.empty((size[0], width, 3), np.uint8) if image else None,
                    np.empty((size[0], width), labels.dtype),
                    {name: np.empty((size[0], width), np.float32) for name in names},
                )
            place = np.s_[:, part.left : part.left + size[1]]
            row.labels[place] = labels
            if row.image is not None:
                row.image[place] = shown
            for name, values in row.probabilities.items():
                values[place] = upsample.probability(part.coarse, stride, size, self._index(name))
            if part.left + size[1] == width:
                yield row
        self.__dict__["areas"] = shares(self.classes, counts)
        self.__dict__["confidence"] = sure / positions
        self.__dict__["_tinted"] = reduced.overlay(self.palette)

    def _write_rasters(self, files: OutputFiles, mark: str) -> None:
        """Writes all pictures in one pass through the tiles."""
        text, size, wide = (MARK, mark), self.size, len(self._stored_palette) > 256
        with ExitStack() as stack:

            def png(path: Path, kind: Any, palette: Sequence[Color] = ()) -> Writer:
                temporary = stack.enter_context(atomic(path, new=files.is_new(path)))
                return stack.enter_context(
                    png_rows(temporary, size, kind, palette=palette, text=text)
                )

            kind = "grey16" if wide else "palette"
            if self.place is not None:
                write_labels = stack.enter_context(self._labels_tiff(files, mark, self.place))
            else:
                write_labels = png(files.labels, kind, () if wide else self._stored_palette)
            grey = {name: png(path, "grey") for name, path in files.probabilities.items()}
            cutouts = {name: png(path, "rgba") for name, path in files.cutouts.items()}
            wanted = [*dict.fromkeys((*grey, *cutouts))]
            for rows in self._rows(wanted, image=bool(cutouts)):
                write_labels(rows.labels)
                for name, write in grey.items():
                    write(np.rint(255 * rows.probabilities[name]).astype(np.uint8))
                for name, write in cutouts.items():
                    assert rows.image is not None
                    write(np.dstack([rows.image, overlay.opacity(rows.probabilities[name])]))


class _Reduced:
    """Collects a picture and its labels, reduced by a power of two, from parts."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.step = 1
        while max(size) > _OVERLAY_SIDE * self.step and self.step < tiles.ALIGNMENT:
            self.step *= 2
        height, width = (-(-side // self.step) for side in size)
        self.image = np.empty((height, width, 3), np.uint8)
        self.labels = np.empty((height, width), np.uint16)

    def add(self, part: tiles.Part, shown: NDArray[np.uint8], labels: Labels) -> None:
        image = np.asarray(Image.fromarray(shown).reduce(self.step))
        top, left = part.top // self.step, part.left // self.step
        place = np.s_[top : top + image.shape[0], left : left + image.shape[1]]
        self.image[place] = image
        self.labels[place] = labels[:: self.step, :: self.step]

    def overlay(self, palette: tuple[Color, ...]) -> Image.Image:
        return overlay.overlay(Image.fromarray(self.image), self.labels, palette)
