"""Classes of masks without a class file, and of masks that hold two values only."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from atrous.classes import IGNORE_INDEX, numbered
from atrous.data.formats.class_files import ClassFile
from atrous.data.formats.layout import BACKGROUND, class_table, is_background
from atrous.data.formats.splits import Splits
from atrous.data.masks.colors import ColorTable
from atrous.data.masks.files import read_mask
from atrous.errors import AtrousError

UNNAMED = ("numbered", "binary")  # tables without names from the data set
_FOREGROUND = "foreground"
_SAMPLED = 64  # masks that are read where a class file names the classes

log = logging.getLogger(__name__)


def classes_of_masks(found: ClassFile | None, splits: Splits) -> ClassFile:
    """Returns the classes of a data set of masks, with two-valued masks read as two classes.

    Tools save masks of one object mostly as 0 and 255. There, 255 cannot mean unlabelled: no class
    would be left. Masks of 0 and 255, and of 0 and 1, become the classes "background" and
    "foreground", or the classes that a class file names. Other masks keep their values.

    Args:
        found: The content of a class file; None without a class file.
        splits: Lists of the samples.
    """
    if found is None:
        paths = _masks(splits)
        log.warning("no class names found: reading %d masks to count the classes", len(paths))
        values = _values(paths, ())
        others = values - {0, IGNORE_INDEX}
        foreground = others or values - {0}  # beside 0 alone, 255 cannot mean unlabelled
        if len(foreground) == 1 and 0 in values:
            return _binary((BACKGROUND, _FOREGROUND), foreground.pop())
        return ClassFile(numbered(1 + max(others, default=0)))
    names = found.table.classes
    if len(names) > 2 or found.mapping:
        return found
    paths = _masks(splits)
    values = _values(paths[:: -(-len(paths) // _SAMPLED) or 1], found.colors)
    value = IGNORE_INDEX if values == {0, IGNORE_INDEX} else 1
    if len(names) == 1 and 0 in values and values <= {0, value, IGNORE_INDEX}:
        name = _FOREGROUND if is_background(names[0]) else names[0]
        return _binary((BACKGROUND, name), value, "class file", found.colors)
    return ClassFile(found.table, _off_and_on(value), found.colors)


def _binary(
    names: tuple[str, str], value: int, source: str = "binary", colors: ColorTable = ()
) -> ClassFile:
    return ClassFile(class_table(source, names, where=""), _off_and_on(value), colors)


def _off_and_on(value: int) -> dict[int, int | None]:
    return {0: 0, value: 1} if value != 1 else {}


def _masks(splits: Splits) -> list[Path]:
    paths = {item.annotation for listing in splits.values() for item in listing().items}
    return sorted(path for path in paths if isinstance(path, Path))


def _values(paths: Sequence[Path], colors: ColorTable) -> set[int]:
    """Returns the values of all masks that can be read."""
    with ThreadPoolExecutor() as pool:
        return set().union(*pool.map(partial(_values_of, colors=colors), paths))


def _values_of(path: Path, colors: ColorTable) -> set[int]:
    try:
        return set(np.unique(read_mask(path, colors=colors).labels).tolist())
    except AtrousError:
        return set()  # the error comes up when the sample is read
