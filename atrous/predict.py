"""From pictures to masks: the Predictor and what it returns."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous import upsample, visualize
from atrous.classes import Color
from atrous.engines import Engine
from atrous.errors import AtrousError, unknown_name
from atrous.images import atomic, read_image, to_rgb, upright
from atrous.sources import open_engine

if TYPE_CHECKING:
    from atrous.model import DeepLabV3Plus


@dataclass(frozen=True)
class Segmentation:
    """The classes of a picture's pixels, at the picture's own size and orientation.

    Attributes:
        image: The picture as it was segmented, upright RGB.
        labels: (H, W) uint8, or uint16 for more than 256 classes.
        classes: Names in the order of the label values.
        palette: Their colours.
    """

    image: Image.Image = field(repr=False)
    labels: visualize.Labels = field(repr=False)
    classes: tuple[str, ...]
    palette: tuple[Color, ...] = field(repr=False)
    _coarse: NDArray[np.float32] = field(repr=False)
    _stride: int = field(repr=False)

    @cached_property
    def areas(self) -> dict[str, float]:
        """Share of the picture of each class that occurs, largest first; they sum to 1."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        order = sorted(np.flatnonzero(counts), key=lambda index: -counts[index])
        return {self.classes[index]: float(counts[index] / self.labels.size) for index in order}

    def probability(self, name: str) -> NDArray[np.float32]:
        """Returns the probability (softmax) of a class at every pixel, (H, W) in 0..1.

        Raises:
            AtrousError: The model has no such class.
        """
        if name not in self.classes:
            raise unknown_name("class", name, self.classes)
        size = (self.image.height, self.image.width)
        return upsample.probability(self._coarse, self._stride, size, self.classes.index(name))

    def overlay(self, *, legend: bool = False) -> Image.Image:
        """Returns the picture tinted by class, with borders; `legend` adds a strip of names."""
        picture = visualize.overlay(self.image, self.labels, self.palette)
        if not legend:
            return picture
        colors = [self.palette[self.classes.index(name)] for name in self.areas]
        strip = visualize.legend(
            list(self.areas), colors, list(self.areas.values()), width=picture.width
        )
        result = Image.new("RGB", (picture.width, picture.height + strip.height), "white")
        result.paste(picture, (0, 0))
        result.paste(strip, (0, picture.height))
        return result

    def save(
        self, out: str | Path, stem: str = "picture", *, facts: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Writes ``STEM.labels.png``, ``STEM.overlay.jpg`` and ``STEM.json`` into a folder.

        Each file is whole or absent, the JSON last: it vouches for the other two. None of them
        carries metadata of the picture (EXIF may hold a position).

        Args:
            out: The folder, made if need be.
            stem: Start of the file names; may contain folders.
            facts: Added to the JSON.

        Returns:
            What the JSON holds: paths of labels and overlay, size (height, width), areas.
        """
        out = Path(out)
        labels, overlay, summary = (
            out / f"{stem}{suffix}" for suffix in (".labels.png", ".overlay.jpg", ".json")
        )
        with atomic(labels) as temporary:
            visualize.palette_image(self.labels, self.palette).save(temporary, "PNG")
        with atomic(overlay) as temporary:
            self.overlay().save(temporary, "JPEG", quality=90)
        record = {
            **(facts or {}),
            "labels": str(labels),
            "overlay": str(overlay),
            "size": [self.image.height, self.image.width],
            "areas": self.areas,
        }
        with atomic(summary) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return record


class Predictor:
    """Segments pictures with a model.

    Args:
        model: The path of a model file, a `DeepLabV3Plus`, or an `Engine`.
        threads: Threads to use; None: one for each processor this process may run on.

    Raises:
        AtrousError: No such model, or what it needs is not installed.
    """

    def __init__(
        self,
        model: "str | Path | DeepLabV3Plus | Engine | None" = None,
        *,
        threads: int | None = None,
    ) -> None:
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

        Args:
            image: A path, a PIL picture, or an (H, W, 3) uint8 array, RGB.

        Raises:
            AtrousError: The picture cannot be read, or the array is no picture.
        """
        picture = _as_picture(image)
        coarse = self.engine.coarse_logits(np.asarray(picture))
        stride = self.engine.logits_stride
        labels = upsample.labels(coarse, stride, (picture.height, picture.width))
        return Segmentation(picture, labels, self.classes, self.palette, coarse, stride)


def _is_engine(model: object) -> bool:
    # A model has coarse_logits too, but no fingerprint.
    return hasattr(model, "coarse_logits") and hasattr(model, "fingerprint")


def _as_picture(image: str | Path | Image.Image | NDArray[np.uint8]) -> Image.Image:
    if isinstance(image, (str, Path)):
        return read_image(image)
    if isinstance(image, Image.Image):
        return to_rgb(upright(image))
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise AtrousError(
            "E-IMAGE-ARRAY",
            f"expected an array (H, W, 3) of uint8, got {image.shape} of {image.dtype}",
        )
    return Image.fromarray(image)
