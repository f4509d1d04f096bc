"""Settings that fit a data set: class weights, a crop size, a label mapping."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from atrous.classes import ADE20K, CAMVID, CITYSCAPES, VOC, ClassTable, Color, unlabelled
from atrous.data.formats.cityscapes import MAPPING as CITYSCAPES_MAPPING

LabelMapping = Mapping[int, int | None]

_LARGEST_CROP = 769  # the paper's on Cityscapes
_SMALLEST_CROP = 129
_GRID = 16  # crops of 16k + 1 put features on pixels exactly, corners included
_PALETTES = (VOC, CITYSCAPES, CAMVID, ADE20K)


def class_weights(counts: Mapping[int, int], num_classes: int) -> list[float | None]:
    """Returns a loss weight for each class: median frequency balancing.

    The median of the classes' frequencies divided by the class's own (Eigen and Fergus,
    arXiv:1411.4734, Sec. 6.2, over all pixels); None for a class that does not occur.

    >>> class_weights({0: 900, 1: 90, 2: 10}, 4)
    [0.1, 1.0, 9.0, None]
    """
    present = [counts[k] for k in range(num_classes) if counts.get(k)]
    if not present:
        return [None] * num_classes
    median = float(np.median(present))
    return [round(median / counts[k], 4) if counts.get(k) else None for k in range(num_classes)]


def crop_size(sizes: Sequence[tuple[int, int]]) -> int:
    """Returns a square crop that holds nine of ten pictures whole, between 129 and 769.

    The result is 16k + 1: 513 for VOC and 769 for Cityscapes, as in the paper.

    >>> crop_size([(375, 500)])
    513
    """
    longest = float(np.quantile([max(size) for size in sizes], 0.9)) if sizes else _SMALLEST_CROP
    fitting = int(np.ceil((longest - 1) / _GRID)) * _GRID + 1
    return min(max(fitting, _SMALLEST_CROP), _LARGEST_CROP)


class Reading(NamedTuple):
    """A possible meaning of the values in masks."""

    mapping: LabelMapping
    because: str


def readings(values: Mapping[int, int], num_classes: int) -> list[Reading]:
    """Returns the likely meanings of the values (-> pixels) that masks hold, best first.

    Empty if the values look like class indices.
    """
    ignore = unlabelled(num_classes)
    present = {value for value, pixels in values.items() if pixels and value != ignore}
    highest = max(present, default=0)
    found = []
    if num_classes == len(CITYSCAPES.classes) <= highest and present <= CITYSCAPES_MAPPING.keys():
        because = "these are Cityscapes' raw ids, and the classes train ids"
        found.append(Reading(CITYSCAPES_MAPPING, because))
    if highest == num_classes:
        sure = 0 not in present or num_classes == len(ADE20K.classes)
        because = "the classes are counted from 1" + ("" if sure else ", if 0 means unlabelled")
        found.append(Reading({0: None} | {i + 1: i for i in range(num_classes)}, because))
        if 0 in present:
            because = f"{num_classes} comes after the last class: right if it means unlabelled"
            found.append(Reading({num_classes: None}, because))
    if len(present) == num_classes < highest:
        because = "as many values as classes: right if both are in the same order"
        found.append(Reading({value: i for i, value in enumerate(sorted(present))}, because))
    if present == {0} and values.get(ignore):
        found.append(Reading({0: 0, ignore: 1}, f"0 and {ignore} only: background and foreground"))
    return found


def known_palette(colors: Collection[Color]) -> ClassTable | None:
    """Returns the published table whose colours these are, void aside; None if there is none."""
    for table in _PALETTES:
        others = [color for color in colors if color not in table.palette]
        # The masks may hold one more colour, for unlabelled pixels.
        if len(others) <= 1 < len(colors):
            return table
    return None


def mapping_yaml(mapping: LabelMapping) -> str:
    """Returns a mapping as the label_mapping of a dataset YAML."""
    lines = (
        f"  {value}: {'ignore_label' if index is None else index}"
        for value, index in sorted(mapping.items())
    )
    return "\n".join(("label_mapping:", *lines))
