"""The classes of a picture's pixels, and the files that hold them."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous.classes import Color
from atrous.errors import unknown_name
from atrous.images.decode import atomic
from atrous.predict import overlay, upsample

UNKNOWN = "unknown"  # what the highest label is called where the network is not sure enough


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
    labels: overlay.Labels = field(repr=False)
    classes: tuple[str, ...]
    palette: tuple[Color, ...] = field(repr=False)
    _coarse: NDArray[np.float32] = field(repr=False)
    _stride: int = field(repr=False)
    unknown_below: float = 0.0

    @cached_property
    def areas(self) -> dict[str, float]:
        """Share of the picture of each class that occurs, largest first; they sum to 1."""
        return shares(self.classes, np.bincount(self.labels.ravel()))

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
        strip = overlay.legend(
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
        return overlay.overlay(self.image, self.labels, self.palette)

    @property
    def _stored_palette(self) -> tuple[Color, ...]:
        """Colours of all label values: white for the unknown, after the classes and blacks."""
        if not self.unknown_below or len(self.palette) > 256:
            return self.palette
        return (*self.palette, *((0, 0, 0),) * (255 - len(self.palette)), (255, 255, 255))

    def _save_labels(self, path: Path) -> None:
        overlay.palette_image(self.labels, self._stored_palette).save(path, "PNG")

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


def _file_name(text: str) -> str:
    return re.sub(r"[^\w-]", "_", text)


def shares(classes: tuple[str, ...], counts: NDArray[np.int64]) -> dict[str, float]:
    """Returns the share of each class that occurs, largest first, from counts of label values."""
    order = sorted(np.flatnonzero(counts), key=lambda index: -counts[index])
    return {
        classes[index] if index < len(classes) else UNKNOWN: float(counts[index] / counts.sum())
        for index in order
    }


def labels_of(
    coarse: NDArray[np.float32], stride: int, size: tuple[int, int], unknown_below: float
) -> overlay.Labels:
    """Returns labels at `size`, with the highest value where no class reaches `unknown_below`."""
    labels = upsample.labels(coarse, stride, size)
    if unknown_below:
        if coarse.shape[2] == 256:  # 255 is a class
            labels = labels.astype(np.uint16)
        unsure = upsample.confidence(coarse, stride, size) < unknown_below
        labels[unsure] = np.iinfo(labels.dtype).max
    return labels
