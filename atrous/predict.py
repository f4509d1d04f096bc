"""From pictures to masks: the Predictor and what it returns."""

import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous import tiles, upsample, visualize
from atrous.classes import Color
from atrous.engines import Engine
from atrous.errors import AtrousError, unknown_name
from atrous.images import MAX_PIXELS, atomic, read_image, to_rgb, upright
from atrous.png import IndexPng
from atrous.sources import open_engine
from atrous.windows import DecodedPicture, Windows, open_tiff

if TYPE_CHECKING:
    from atrous.model import DeepLabV3Plus

MEMORY = 2_000_000_000  # bytes of the process, beyond which pictures are seen in tiles
UNKNOWN = "unknown"  # what the highest label is called where the network is not sure enough
_OVERLAY_SIDE = 2048  # of pictures in tiles, at most


@dataclass(frozen=True)
class Segmentation:
    """The classes of a picture's pixels, at the picture's own size and orientation.

    Attributes:
        image: The picture as it was segmented, upright RGB.
        labels: (H, W) uint8, or uint16 for more than 256 classes. 255 (65535) where no class
            reaches `unknown_below`.
        classes: Names in the order of the label values.
        palette: Their colours.
        unknown_below: The probability below which a pixel's class is unknown.
    """

    image: Image.Image = field(repr=False)
    labels: visualize.Labels = field(repr=False)
    classes: tuple[str, ...]
    palette: tuple[Color, ...] = field(repr=False)
    _coarse: NDArray[np.float32] = field(repr=False)
    _stride: int = field(repr=False)
    unknown_below: float = 0.0

    @cached_property
    def areas(self) -> dict[str, float]:
        """Share of the picture of each class that occurs, largest first; they sum to 1."""
        return _areas(self.classes, np.bincount(self.labels.ravel()))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.image.height, self.image.width

    def probability(self, name: str) -> NDArray[np.float32]:
        """Returns the probability (softmax) of a class at every pixel, (H, W) in 0..1.

        Raises:
            AtrousError: The model has no such class.
        """
        return upsample.probability(self._coarse, self._stride, self.size, self._index(name))

    def overlay(self, *, legend: bool = False) -> Image.Image:
        """Returns the picture tinted by class, with borders; `legend` adds a strip of names."""
        picture = self._tinted
        if not legend:
            return picture
        known = dict(zip(self.classes, self.palette, strict=True))
        colors = [known.get(name, (0, 0, 0)) for name in self.areas]
        strip = visualize.legend(
            list(self.areas), colors, list(self.areas.values()), width=picture.width
        )
        result = Image.new("RGB", (picture.width, picture.height + strip.height), "white")
        result.paste(picture, (0, 0))
        result.paste(strip, (0, picture.height))
        return result

    def _index(self, name: str) -> int:
        if name not in self.classes:
            raise unknown_name("class", name, self.classes)
        return self.classes.index(name)

    @property
    def _tinted(self) -> Image.Image:
        return visualize.overlay(self.image, self.labels, self.palette)

    @property
    def _stored_palette(self) -> tuple[Color, ...]:
        """Colours of all label values: white for the unknown, after the classes and blacks."""
        if not self.unknown_below or len(self.palette) > 256:
            return self.palette
        return (*self.palette, *((0, 0, 0),) * (255 - len(self.palette)), (255, 255, 255))

    def _save_labels(self, path: Path) -> None:
        visualize.palette_image(self.labels, self._stored_palette).save(path, "PNG")

    def save(
        self,
        out: str | Path,
        stem: str = "picture",
        *,
        probabilities: Sequence[str] = (),
        exif: bytes = b"",
        facts: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Writes ``STEM.labels.png``, ``STEM.overlay.jpg`` and ``STEM.json`` into a folder.

        Each file is whole or absent, the JSON last: it vouches for the others. None of them
        carries metadata of the picture (EXIF may hold a position) unless asked for.

        Args:
            out: The folder, made if need be.
            stem: Start of the file names; may contain folders.
            probabilities: Classes whose probability is written too, as ``STEM.CLASS.png``: 8-bit
                grey, 255 is certain.
            exif: Written into the overlay.
            facts: Added to the JSON.

        Returns:
            What the JSON holds: paths of labels, overlay and probabilities, size (height, width),
            areas.

        Raises:
            AtrousError: The model has no such class.
        """
        out = Path(out)
        labels, overlay, summary = (
            out / f"{stem}{suffix}" for suffix in (".labels.png", ".overlay.jpg", ".json")
        )
        with atomic(labels) as temporary:
            self._save_labels(temporary)
        with atomic(overlay) as temporary:
            self.overlay().save(temporary, "JPEG", quality=90, exif=exif)
        grey = {name: out / f"{stem}.{_file_name(name)}.png" for name in probabilities}
        for name, path in grey.items():
            with atomic(path) as temporary:
                values = np.rint(255 * self.probability(name)).astype(np.uint8)
                Image.fromarray(values).save(temporary, "PNG")
        record = {
            **(facts or {}),
            "labels": str(labels),
            "overlay": str(overlay),
            "size": list(self.size),
            "areas": self.areas,
        }
        if grey:
            record["probabilities"] = {name: str(path) for name, path in grey.items()}
        with atomic(summary) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return record


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
    def labels(self) -> visualize.Labels:
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

    def _rows_of_labels(self) -> Iterator[visualize.Labels]:
        """Yields the labels of each row of tiles; after the last, areas and overlay are known."""
        width, stride = self.size[1], self._engine.logits_stride
        counts = np.zeros(2**16, np.int64)
        reduced = _Reduced(self.size)
        for part in tiles.parts(self._engine, self._picture, self._grid):
            labels = _labels(part.coarse, stride, part.image.shape[:2], self.unknown_below)
            if part.left == 0:
                rows = np.empty((len(labels), width), labels.dtype)
            rows[:, part.left : part.left + labels.shape[1]] = labels
            counts += np.bincount(labels.ravel(), minlength=len(counts))
            reduced.add(part, labels)
            if part.left + labels.shape[1] == width:
                yield rows
        self.__dict__["areas"] = _areas(self.classes, counts)
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

    def add(self, part: tiles.Part, labels: visualize.Labels) -> None:
        image = np.asarray(Image.fromarray(part.image).reduce(self.step))
        top, left = part.top // self.step, part.left // self.step
        place = np.s_[top : top + image.shape[0], left : left + image.shape[1]]
        self.image[place] = image
        self.labels[place] = labels[:: self.step, :: self.step]

    def overlay(self, palette: tuple[Color, ...]) -> Image.Image:
        return visualize.overlay(Image.fromarray(self.image), self.labels, palette)


def _file_name(text: str) -> str:
    return re.sub(r"[^\w-]", "_", text)


def _areas(classes: tuple[str, ...], counts: NDArray[np.int64]) -> dict[str, float]:
    order = sorted(np.flatnonzero(counts), key=lambda index: -counts[index])
    return {
        classes[index] if index < len(classes) else UNKNOWN: float(counts[index] / counts.sum())
        for index in order
    }


def _labels(
    coarse: NDArray[np.float32], stride: int, size: tuple[int, int], unknown_below: float
) -> visualize.Labels:
    labels = upsample.labels(coarse, stride, size)
    if unknown_below:
        if coarse.shape[2] == 256:  # 255 is a class
            labels = labels.astype(np.uint16)
        unsure = upsample.confidence(coarse, stride, size) < unknown_below
        labels[unsure] = np.iinfo(labels.dtype).max
    return labels


class Predictor:
    """Segments pictures with a model.

    Args:
        model: The path of a model file, a `DeepLabV3Plus`, or an `Engine`.
        threads: Threads to use; None: one for each processor this process may run on.
        memory: Bytes the process may take: larger pictures are seen in overlapping tiles. An
            estimate, kept for exported files.
        unknown_below: Probability in 0..1 that a pixel's class must reach; others get the highest
            label, and are "unknown" in the areas.

    Raises:
        AtrousError: No such model, what it needs is not installed, or no probability.
    """

    def __init__(
        self,
        model: "str | Path | DeepLabV3Plus | Engine | None" = None,
        *,
        threads: int | None = None,
        memory: int = MEMORY,
        unknown_below: float = 0.0,
    ) -> None:
        if not 0 <= unknown_below <= 1:
            raise AtrousError("E-OPTIONS", f"unknown_below must be in 0..1, not {unknown_below}")
        self.memory, self.unknown_below = memory, unknown_below
        if _is_engine(model):
            self.engine: Engine = model  # type: ignore[assignment]
        else:
            self.engine = open_engine(model, threads=threads)  # type: ignore[arg-type]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of the label values."""
        return self.engine.classes

    @property
    def palette(self) -> tuple[Color, ...]:
        """Colours of the classes."""
        return self.engine.palette

    def __call__(self, image: str | Path | Image.Image | NDArray[np.uint8]) -> Segmentation:
        """Segments one picture at its own size.

        A picture beyond the memory is seen in tiles, when its labels are asked for or saved; a TIFF
        of tiles or strips is then never decoded whole, and may have any size.

        Args:
            image: A path, a PIL picture, or an (H, W, 3) uint8 array, RGB.

        Raises:
            AtrousError: The picture cannot be read, the array is no picture, or the memory is
                too small for any tile.
        """
        if isinstance(image, (str, Path)):
            windows = open_tiff(Path(image))
            if windows is not None and self._too_large(windows.size):
                return self._tiled(windows)
        picture = _as_picture(image)
        if self._too_large((picture.height, picture.width)):
            return self._tiled(DecodedPicture(picture))
        coarse = self.engine.coarse_logits(np.asarray(picture))
        stride = self.engine.logits_stride
        labels = _labels(coarse, stride, (picture.height, picture.width), self.unknown_below)
        return Segmentation(
            picture, labels, self.classes, self.palette, coarse, stride, self.unknown_below
        )

    def _too_large(self, size: tuple[int, int]) -> bool:
        return size[0] * size[1] > MAX_PIXELS or not tiles.fits(self.engine, size, self.memory)

    def _tiled(self, picture: Windows) -> TiledSegmentation:
        grid = tiles.plan(self.engine, picture, self.memory)
        return TiledSegmentation(self.engine, picture, grid, self.unknown_below)


def _is_engine(model: object) -> bool:
    # A model has coarse_logits too, but no fingerprint.
    return hasattr(model, "coarse_logits") and hasattr(model, "fingerprint")


def _as_picture(image: str | Path | Image.Image | NDArray[np.uint8]) -> Image.Image:
    if isinstance(image, (str, Path)):
        return read_image(image)
    if isinstance(image, Image.Image):
        return to_rgb(upright(image))
    if not isinstance(image, np.ndarray):
        raise AtrousError(
            "E-IMAGE-ARRAY",
            f"expected a path, a PIL image or an array, got {type(image).__name__}",
        )
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise AtrousError(
            "E-IMAGE-ARRAY",
            f"expected an array (H, W, 3) of uint8, got {image.shape} of {image.dtype}",
        )
    return Image.fromarray(image)
