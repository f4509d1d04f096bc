"""The classes of a picture's pixels, and the files that hold them."""

import base64
import dataclasses
import html
import io
import json
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from atrous.classes import Color, Labels, unlabelled, with_room
from atrous.errors import unknown_name
from atrous.images.bands import Pixels
from atrous.images.decode import write
from atrous.images.labels_tiff import labels_tiff
from atrous.images.raster import NoData, Place, missing
from atrous.images.stores import place
from atrous.predict import overlay, upsample
from atrous.predict.records import MARK
from atrous.predict.regions import outlines

UNKNOWN = "unknown"  # name in `areas` of the pixels without a probable class
JPEG_SIDE = 65500  # the longest side that libjpeg writes
_SHOWN_SIDE = 1024  # the longest side of a picture in a notebook
_LEGEND_WIDTH = 240  # room for the longest names, also below a narrow picture


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
        notes: Decisions of the conversion to RGB; see `atrous.images.rgb.to_rgb`.
        place: Where a georeferenced picture lies on the ground.
    """

    image: Image.Image = field(repr=False)
    labels: Labels = field(repr=False)
    classes: tuple[str, ...]
    palette: tuple[Color, ...] = field(repr=False)
    _coarse: NDArray[np.float32] = field(repr=False)
    _stride: int = field(repr=False)
    unknown_below: float = 0.0
    notes: tuple[str, ...] = ()
    place: Place | None = field(default=None, repr=False)

    @cached_property
    def areas(self) -> dict[str, float]:
        """Share of the picture of each class that occurs, largest first; they sum to 1."""
        return shares(self.classes, np.bincount(self.labels.ravel()))

    @cached_property
    def confidence(self) -> float:
        """Mean probability of the chosen class, 1/K..1, over the grid of the coarse logits."""
        return upsample.mean_confidence(self._coarse)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.image.height, self.image.width

    def coarse_parts(self) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        """Yields the coarse logits in parts: first row and column in their grid, and (h, w, K)."""
        yield 0, 0, self._coarse

    def probability(self, name: str) -> NDArray[np.float32]:
        """Returns the probability (softmax) of a class at every pixel, (H, W) in 0..1.

        Raises:
            AtrousError: The model has no such class.
        """
        return upsample.probability(self._coarse, self._stride, self.size, self._index(name))

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Returns the pixels of a class, (H, W).

        Raises:
            AtrousError: The model has no such class.
        """
        return self.labels == self._index(name)

    def cutout(self, *names: str) -> Image.Image:
        """Returns the picture with everything but some classes transparent, RGBA.

        The edge is soft: opacity follows the probability of the classes together, from 0 at .25
        to 1 at .75.

        Raises:
            AtrousError: The model has no such class.
        """
        together = np.sum([self.probability(name) for name in names], axis=0)
        result = self.image.convert("RGB")
        result.putalpha(Image.fromarray(overlay.opacity(np.broadcast_to(together, self.size))))
        result.info.clear()
        return result

    def regions(self, name: str) -> list[NDArray[np.int32]]:
        """Returns the connected regions of a class as polygons (n, 2) of corners (x, y).

        They are exact: filled, they give the mask. A hole is joined to the outline around it by a
        cut without width. See `atrous.predict.regions`.

        Raises:
            AtrousError: The model has no such class.
        """
        return outlines(self.mask(name))

    def overlay(self, *, legend: bool = False) -> Image.Image:
        """Returns the picture tinted by class, with borders; `legend` adds a strip of names."""
        picture = self._tinted
        if not legend:
            return picture
        shown = list(self.areas)
        colors = [self._display_color(name) for name in shown]
        width = max(picture.width, _LEGEND_WIDTH)
        strip = overlay.legend(shown, colors, list(self.areas.values()), width=width)
        return overlay.stacked(picture, strip)

    def show(self) -> None:
        """Opens the overlay with its legend in the system's viewer of pictures."""
        self.overlay(legend=True).show()

    def _repr_png_(self) -> bytes:
        """Returns the overlay with its legend, for notebooks."""
        return encoded(reduced(self.overlay(legend=True), _SHOWN_SIDE), "PNG")

    def _repr_html_(self) -> str:
        """Returns picture, overlay, and a table of colours, names and areas, for notebooks."""
        pictures = "".join(
            f'<img alt="{alt}" style="max-width: 48%; margin-right: 1%" '
            f'src="data:image/jpeg;base64,{_in_base64(reduced(image, _SHOWN_SIDE))}">'
            for alt, image in (("picture", self.image), ("overlay", self.overlay()))
        )
        rows = "".join(
            f'<tr><td style="background: rgb{self._display_color(name)}; width: 1em"></td>'
            f"<td>{html.escape(name)}</td><td>{100 * share:.1f} %</td></tr>"
            for name, share in self.areas.items()
        )
        return f"<div>{pictures}</div><table>{rows}</table>"

    def _display_color(self, name: str) -> Color:
        if name not in self.classes:
            return (0, 0, 0)  # the unknown
        red, green, blue = overlay.display_colors(tuple(self.palette))[self.classes.index(name)]
        return int(red), int(green), int(blue)

    def _index(self, name: str) -> int:
        if name not in self.classes:
            raise unknown_name("class", name, self.classes)
        return self.classes.index(name)

    @property
    def _tinted(self) -> Image.Image:
        return overlay.overlay(self.image, self.labels, self.palette)

    @property
    def _stored_palette(self) -> tuple[Color, ...]:
        """Colours of all label values: white for the unknown, after the classes and blacks."""
        if not self.unknown_below or len(self.palette) > 256:
            return self.palette
        return (*self.palette, *((0, 0, 0),) * (255 - len(self.palette)), (255, 255, 255))

    def save(
        self,
        out: str | Path,
        stem: str = "picture",
        *,
        probabilities: Sequence[str] = (),
        cutouts: Sequence[str] = (),
        overlay: bool = True,
        legend: bool = False,
        exif: bytes = b"",
        facts: dict[str, Any] | None = None,
        mark: str = "",
        replaces: Collection[str] | None = None,
    ) -> dict[str, Any]:
        """Writes ``STEM.labels.png``, ``STEM.overlay.jpg`` and ``STEM.json`` into a folder.

        Labels of a georeferenced picture are ``STEM.labels.tif``, with its place on the ground.

        Each file is whole or absent. The JSON is written last and lists the others. No file holds
        metadata of the picture (EXIF may hold a position) unless `exif` is given. Existing files
        of these names are replaced.

        Args:
            out: The folder, made if need be, or an address in a store.
            stem: Start of the file names; may contain folders.
            probabilities: Classes whose probability is written too, as ``STEM.CLASS.png``: 8-bit
                grey, 255 is certain.
            cutouts: Classes whose `cutout` is written too, as ``STEM.CLASS.cutout.png``.
            overlay: Whether to write the overlay. One that is too long for JPEG is reduced.
            legend: Whether the overlay has a legend below it.
            exif: EXIF for the overlay.
            facts: Entries that are added to the JSON.
            mark: A text stored in every picture that is written.
            replaces: In a store, names of files that may be replaced; None: all.

        Returns:
            The content of the JSON: paths of labels, overlay, probabilities and cutouts, size
            (height, width), areas, confidence.

        Raises:
            AtrousError: The model has no such class.
            OSError: A file cannot be written.
        """
        for name in (*probabilities, *cutouts):
            self._index(name)
        files = output_files(
            place(out), stem, probabilities, cutouts,
            overlay=overlay, placed=self.place is not None,
        )  # fmt: skip
        files = dataclasses.replace(files, replaces=replaces)
        self._write_rasters(files, mark)
        if files.overlay:
            shown = reduced(self.overlay(legend=legend), JPEG_SIDE)
            comment = f"{MARK} {mark}".encode() if mark else b""
            files.write(
                files.overlay, encoded(shown, "JPEG", quality=90, exif=exif, comment=comment)
            )
        record = {
            **(facts or {}),
            "labels": str(files.labels),
            "overlay": str(files.overlay) if files.overlay else None,
            "size": list(self.size),
            "areas": self.areas,
            "confidence": round(self.confidence, 4),
        }
        for key, paths in (("probabilities", files.probabilities), ("cutouts", files.cutouts)):
            if paths:
                record[key] = {name: str(path) for name, path in paths.items()}
        if self.notes:
            record["notes"] = list(self.notes)
        files.write(files.summary, (json.dumps(record, indent=1) + "\n").encode())
        return record

    def placed(self, pixels: Pixels, place: Place | None, no_data: NoData) -> "Segmentation":
        """Returns the segmentation at a place; pixels (H, W, C) without data have no label."""
        labels = without_data(self.labels, pixels, no_data, len(self.classes))
        return dataclasses.replace(self, labels=labels, place=place)

    def _labels_tiff(
        self, files: "OutputFiles", mark: str, place: Place
    ) -> AbstractContextManager[Callable[[Labels], None]]:
        return labels_tiff(
            files.labels, self.size, place, len(self.classes), self._stored_palette, mark,
            new=files.is_new(files.labels),
        )  # fmt: skip

    def _write_rasters(self, files: "OutputFiles", mark: str) -> None:
        """Writes labels, probabilities and cut-outs, which have the picture's own size."""
        text = PngInfo()
        if mark:
            text.add_text(MARK, mark)
        if self.place is not None:
            with self._labels_tiff(files, mark, self.place) as write_rows:
                write_rows(self.labels)
        else:
            labels = overlay.palette_image(self.labels, self._stored_palette)
            files.write(files.labels, encoded(labels, "PNG", pnginfo=text))
        for name, path in files.probabilities.items():
            grey = np.rint(255 * self.probability(name)).astype(np.uint8)
            files.write(path, encoded(Image.fromarray(grey), "PNG", pnginfo=text))
        for name, path in files.cutouts.items():
            files.write(path, encoded(self.cutout(name), "PNG", pnginfo=text))


@dataclass(frozen=True)
class OutputFiles:
    """The files of one picture's output.

    Attributes:
        labels: Class indices.
        overlay: The tinted picture; None if there is none.
        probabilities: Class -> its probability.
        cutouts: Class -> its cut-out.
        summary: The JSON.
        replaces: In a store, names of files that may be replaced; None: all.
    """

    labels: Path
    overlay: Path | None
    probabilities: dict[str, Path]
    cutouts: dict[str, Path]
    summary: Path
    replaces: Collection[str] | None = None

    def is_new(self, path: Path) -> bool:
        """Returns whether a file must not be there yet."""
        return self.replaces is not None and path.name not in self.replaces

    def write(self, path: Path, data: bytes) -> None:
        """Writes one of the files."""
        write(path, data, new=self.is_new(path))

    @property
    def pictures(self) -> list[Path]:
        """All files but the JSON."""
        overlay = [self.overlay] if self.overlay else []
        return [self.labels, *overlay, *self.probabilities.values(), *self.cutouts.values()]


def output_files(
    out: Path,
    stem: str,
    probabilities: Sequence[str] = (),
    cutouts: Sequence[str] = (),
    *,
    overlay: bool = True,
    placed: bool = False,
) -> OutputFiles:
    """Returns the names of a picture's output files; see `Segmentation.save`."""
    # Two class names may give one file name, and a class may be named "labels".
    taken = {"labels", "overlay"}
    names = {}
    for name in dict.fromkeys((*probabilities, *cutouts)):
        short = re.sub(r"[^\w-]", "_", name)
        while short in taken:
            short += "_"
        taken.add(short)
        names[name] = short
    return OutputFiles(
        labels=out / f"{stem}.labels.{'tif' if placed else 'png'}",
        overlay=out / f"{stem}.overlay.jpg" if overlay else None,
        probabilities={name: out / f"{stem}.{names[name]}.png" for name in probabilities},
        cutouts={name: out / f"{stem}.{names[name]}.cutout.png" for name in cutouts},
        summary=out / f"{stem}.json",
    )


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    """Returns a picture as the content of a file."""
    # Pillow writes JPEG in C and reports a full disk without an error number. Therefore it encodes
    # into memory here, and Python writes the file.
    stream = io.BytesIO()
    if image.mode == "P":  # labels: a search for runs alone takes a third of the time
        options["compress_type"] = zlib.Z_RLE
    image.save(stream, format, **options)
    return stream.getvalue()


def _in_base64(image: Image.Image) -> str:
    return base64.b64encode(encoded(image, "JPEG", quality=90)).decode()


def reduced(image: Image.Image, side: int) -> Image.Image:
    """Returns the picture, reduced by a whole factor if a side is longer than `side`."""
    factor = -(-max(image.size) // side)
    return image if factor == 1 else image.reduce(factor)


def shares(classes: tuple[str, ...], counts: NDArray[np.int64]) -> dict[str, float]:
    """Returns the share of each class that occurs, largest first, from counts of label values."""
    order = sorted(np.flatnonzero(counts), key=lambda index: -counts[index])
    return {
        classes[index] if index < len(classes) else UNKNOWN: float(counts[index] / counts.sum())
        for index in order
    }


def labels_of(
    coarse: NDArray[np.float32], stride: int, size: tuple[int, int], unknown_below: float
) -> Labels:
    """Returns labels at `size`, `unlabelled` where no class reaches `unknown_below`."""
    labels = upsample.labels(coarse, stride, size)
    if unknown_below:
        unknown = unlabelled(coarse.shape[2])
        labels = with_room(labels, unknown)
        labels[upsample.confidence(coarse, stride, size) < unknown_below] = unknown
    return labels


def without_data(labels: Labels, pixels: Pixels, no_data: NoData, num_classes: int) -> Labels:
    """Returns labels that are `unlabelled` where no channel of a picture has a value."""
    if pixels.dtype != np.float32 and not any(value is not None for value in no_data):
        return labels
    absent = missing(pixels, no_data).all(axis=2)
    if not absent.any():
        return labels
    unknown = unlabelled(num_classes)
    labels = with_room(labels, unknown)
    return np.where(absent, labels.dtype.type(unknown), labels)
