"""Targets: class indices from mask files or from shapes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray

from atrous.classes import unlabelled
from atrous.data.dataset import Item, Rectangle, Target, no_classes, target_dtype
from atrous.data.masks.colors import ColorTable
from atrous.data.masks.files import Labels, Mask, read_mask
from atrous.data.masks.shapes import Shape, paint
from atrous.errors import AtrousError, DataError
from atrous.images.raster import Raster, has_rasterio
from atrous.images.tars import opened


@dataclass(frozen=True)
class MaskReader:
    """Reads the target of an item from its mask file (a `ReadTarget`).

    Args:
        num_classes: Number of classes K; decides the type of targets and the value of unlabelled.
        mapping: Value in the file -> class index, or None for unlabelled. Other values do not
            change.
        colors: Colour table for masks stored in colour.
        allow_lossy: Read JPEG masks although their labels cannot be trusted.
    """

    num_classes: int
    mapping: Mapping[int, int | None] = field(default_factory=dict)
    colors: ColorTable = ()
    allow_lossy: bool = False

    def __call__(self, item: Item, size: tuple[int, int]) -> Target:
        """Returns the target (H, W) of an item; `size` is not used: `FileDataset` checks it."""
        assert item.annotation is not None
        mask = self.read(opened(item.annotation), item.window)
        return self.target(mask, item.annotation)

    def read(self, source: Path | IO[bytes], window: Rectangle | None = None) -> Mask:
        """Returns the content of a mask file, or of a window of it, unmapped.

        Of a TIFF of indices, only the window is read; other files are decoded whole.
        """
        if window is not None and isinstance(source, Path) and not self.colors:
            labels = read_index_window(source, window)
            if labels is not None:
                return Mask(labels, "TIFF", "L", ())
        mask = read_mask(source, colors=self.colors, allow_lossy=self.allow_lossy)
        if window is None:
            return mask
        top, left, height, width = window
        return mask._replace(labels=mask.labels[top : top + height, left : left + width])

    def target(self, mask: Mask, where: object) -> Target:
        """Maps the values of a mask to class indices, without checking that they are below K.

        Raises:
            AtrousError: A value does not fit the target's type, or the mapping omits a value and
                maps another value to it.
        """
        labels = self._mapped(mask.labels, where) if self.mapping else mask.labels
        dtype = target_dtype(self.num_classes)
        if labels.dtype != dtype and labels.max(initial=0) > np.iinfo(dtype).max:
            raise no_classes(labels[labels > 255], self.num_classes, where)
        return labels.astype(dtype, copy=False)

    def _mapped(self, labels: Labels, where: object) -> Labels:
        table, ambiguous = _tables(tuple(self.mapping.items()), self.num_classes)
        if ambiguous and (clash := np.isin(labels, ambiguous)).any():
            raise DataError(
                "E-MASK-MAPPING",
                f"label_mapping omits value {int(labels[clash][0])}, and maps another value to it",
                where=where,
                fix="list every value of the masks in label_mapping",
            )
        if labels.dtype == target_dtype(self.num_classes) == np.uint8:
            # Several times faster than indexing an array with an array.
            mapped = bytearray(labels.tobytes().translate(table[:256].astype(np.uint8).tobytes()))
            return np.frombuffer(mapped, dtype=np.uint8).reshape(labels.shape)
        return table[labels]


def read_index_window(path: Path, window: Rectangle) -> Labels | None:
    """Returns a window of a TIFF of one band of integers; None for other files."""
    try:
        raster = Raster(path)
    except AtrousError:
        return None  # read whole, with an error that says more
    if raster.channels != 1 or raster.dtype == "float32" or not has_rasterio():
        return None
    if window[0] + window[2] > raster.size[0] or window[1] + window[3] > raster.size[1]:
        return None
    return raster.read(*window)[..., 0]


@lru_cache(maxsize=16)
def _tables(
    mapping: tuple[tuple[int, int | None], ...], num_classes: int
) -> tuple[NDArray[np.uint16], list[int]]:
    """Returns the index of each 16-bit value, and the values that are only indices of others."""
    table = np.arange(1 << 16, dtype=np.uint16)
    ignore = unlabelled(num_classes)
    for value, index in mapping:
        table[value] = ignore if index is None else index
    indices = {index for _, index in mapping if index is not None}
    return table, sorted(indices - {value for value, _ in mapping})


@dataclass(frozen=True)
class ShapeReader:
    """Paints the target of an item from its shapes (a `ReadTarget`).

    Args:
        shapes: Returns an item's shapes, from the item and the picture's (height, width).
        num_classes: Number of classes K.
        background: Value where there is no shape; None for unlabelled.
        order: Whether later shapes ("given") or smaller shapes ("area") lie on top.
    """

    shapes: Callable[[Item, tuple[int, int]], Sequence[Shape]]
    num_classes: int
    background: int | None
    order: Literal["given", "area"]

    def __call__(self, item: Item, size: tuple[int, int]) -> Target:
        """Returns the target (H, W) of an item."""
        value = unlabelled(self.num_classes) if self.background is None else self.background
        target: Target = np.full(size, value, dtype=target_dtype(self.num_classes))
        return paint(self.shapes(item, size), target, order=self.order, where=item.annotation)
