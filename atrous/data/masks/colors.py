"""Colour tables: from masks stored in colour to class indices."""

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from atrous.classes import Color
from atrous.errors import AtrousError, DataError, listed

ColorTable = tuple[tuple[Color, int], ...]  # colour -> label, hashable


def color_table(palette: Iterable[Color]) -> ColorTable:
    """Returns the colour table of a palette in index order; the first of equal colours counts."""
    table: dict[Color, int] = {}
    for label, color in enumerate(palette):
        table.setdefault(color, label)
    return tuple(table.items())


def labels_of_colors(
    pixels: NDArray[np.uint8], colors: ColorTable, where: object
) -> NDArray[np.uint8 | np.uint16]:
    """Turns colours (H, W, 3) into labels (H, W).

    Raises:
        AtrousError: No table is given and the picture is not grey, or the table lacks a colour.
    """
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    if not colors:
        if np.array_equal(red, green) and np.array_equal(red, blue):
            return np.ascontiguousarray(red)
        raise _unknown_colors("a colour mask without a colour table", pixels, where)
    keys = (red.astype(np.uint32) << 16) | (green.astype(np.uint32) << 8) | blue
    labels = _lookup(colors)[keys]
    unknown = labels == 0
    if unknown.any():
        raise _unknown_colors("colours that the colour table lacks", pixels[unknown], where)
    labels -= 1
    return labels.astype(np.uint8) if labels.max(initial=0) <= 255 else labels


@lru_cache(maxsize=4)
def _lookup(colors: ColorTable) -> NDArray[np.uint16]:
    # An entry for each of 2**24 colours: label + 1, or 0. The system allocates only touched pages.
    table = np.zeros(1 << 24, dtype=np.uint16)
    for (red, green, blue), label in colors:
        table[red << 16 | green << 8 | blue] = label + 1
    return table


def count_colors(pixels: NDArray[np.uint8]) -> Counter[Color]:
    """Counts the colours of pixels (..., 3)."""
    flat = pixels.reshape(-1, 3).astype(np.uint32)
    keys = flat[:, 0] << 16 | flat[:, 1] << 8 | flat[:, 2]
    found, counts = np.unique(keys, return_counts=True)
    colors = ((int(key) >> 16, int(key) >> 8 & 255, int(key) & 255) for key in found)
    return Counter(dict(zip(colors, map(int, counts), strict=True)))


def _unknown_colors(what: str, pixels: NDArray[np.uint8], where: object) -> AtrousError:
    found = listed((f"{rgb} {count} px" for rgb, count in count_colors(pixels).most_common()), 8)
    return DataError(
        "E-MASK-COLOR",
        f"{what}: {found}",
        where=where,
        fix="give the colour of each class: labelmap.txt or class_dict.csv beside the masks, "
        "or colors in the dataset YAML",
    )
