"""LabelMe: a JSON file of shapes for each picture."""

import base64
import binascii
import io
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from atrous.data.dataset import Item
from atrous.data.formats.class_files import find_class_file
from atrous.data.formats.documents import (
    check_size,
    holds_keys,
    invalid,
    once_per_file,
    read_field,
    read_json,
)
from atrous.data.formats.layout import Layout, class_table, shape_classes
from atrous.data.formats.pairing import (
    Files,
    Listing,
    Problem,
    find_files,
    pair,
    relative,
    split_name,
)
from atrous.data.formats.splits import Splits, divide
from atrous.data.masks.shapes import Points, Region, Shape, ellipse, rectangle
from atrous.data.masks.targets import ShapeReader
from atrous.errors import unknown_name
from atrous.images.decode import open_image

LOOKS_FOR = "LabelMe: a JSON file with shapes beside each picture, in one folder or one a split"

_VOID = "__ignore__"
_SPLITS = ("train", "val", "test")
_COVERS_NOTHING = ("point", "points", "line", "linestrip")


def recognise(path: Path) -> Layout | None:
    """Returns the layout of a folder of LabelMe files; background is class 0, others by name."""
    if not path.is_dir():
        return None
    files = find_files(path, (".json",))
    if not any(holds_keys(file, "shapes") for file in list(files.values())[:3]):
        return None
    found = find_class_file(path)
    drawn = (label for file in files.values() for label in _read(file)[1])
    labels = found.table.classes if found else sorted(set(drawn))
    names, index = shape_classes(["background", *labels, "_background_", _VOID])
    table = class_table("labelme", names, where=path)
    splits: Splits = {
        split_name(folder.name): partial(_listed, folder)
        for folder in sorted(path.glob("*/"))
        if split_name(folder.name) in _SPLITS
    }
    splits = splits or divide(partial(_listed, path), path)
    reader = ShapeReader(partial(_shapes, index=index), len(table.classes), 0, "given")
    return Layout("LabelMe", path, table, reader, splits)


@partial(once_per_file, files=1 << 20)  # summaries are small
def _read(path: Path) -> tuple[str, frozenset[str]]:
    """Returns the path of the picture, as its system writes it, and labels that cover pixels."""
    document = read_json(path)
    drawn = _drawn(document, path)
    labels = {read_field(entry, "label", str, path, f"shape {i}") for i, entry in drawn}
    return str(document.get("imagePath") or ""), frozenset(labels)


def _listed(folder: Path) -> Listing:
    """Pairs files and pictures: by the path a file gives, or else by name.

    The path decides, because ``a.json`` may belong to ``a.png`` and not to ``a.jpg``.
    """
    pictures, files = find_files(folder), find_files(folder, (".json",))
    real = {path.resolve(): name for name, path in pictures.items()}
    named: dict[str, list[Path]] = {}
    rest: Files = {}
    for key, file in files.items():
        path = (file.parent / PureWindowsPath(_read(file)[0]).as_posix()).resolve()
        if path.is_file():
            named.setdefault(real.get(path, str(path)), []).append(file)
        else:
            rest[key] = file
    items, problems = [], []
    for name, of_picture in named.items():
        picture = pictures.pop(name, Path(name))
        if len(of_picture) > 1:
            what = f"several files are of it: {', '.join(file.name for file in of_picture)}"
            problems.append(Problem("E-DATA-TWICE", what, picture))
        else:
            key = relative(of_picture[0], folder).removesuffix(".json")
            items.append(Item(key, picture, of_picture[0]))
    by_name = pair(pictures, rest)
    return Listing(tuple(sorted((*items, *by_name.items))), (*problems, *by_name.problems))


def _shapes(item: Item, size: tuple[int, int], *, index: Mapping[str, int]) -> list[Shape]:
    """Returns the shapes of an item whose picture has (height, width).

    Args:
        item: The item.
        size: Height and width.
        index: Label -> value in the target.
    """
    document = read_json(item.file)
    stated = (document.get("imageHeight") or size[0], document.get("imageWidth") or size[1])
    check_size(stated, size, item.key, item.file)
    return [
        _shape(entry, f"shape {i}", item.file, index) for i, entry in _drawn(document, item.file)
    ]


def _drawn(document: dict[str, Any], where: Path) -> list[tuple[int, Any]]:
    """Returns number and entry of each shape that covers pixels."""
    entries = read_field(document, "shapes", list, where, "the file")
    nothing = [isinstance(entry, dict) and _kind(entry) in _COVERS_NOTHING for entry in entries]
    return [(i, entry) for i, entry in enumerate(entries) if not nothing[i]]


def _shape(entry: Any, name: str, where: Path, index: Mapping[str, int]) -> Shape:
    label = read_field(entry, "label", str, where, name)
    if label not in index:
        error = unknown_name("label", label, index)
        raise invalid(f"{name}: {error.what}", where, error.fix)
    name = f"{name} {label!r}"
    points = read_field(entry, "points", _points, where, name)
    kind = _kind(entry)
    if kind == "mask":
        return Shape(index[label], (), _mask(entry, points, name, where), name, clip=True)
    if kind not in _OUTLINES:
        fix = "draw the shape as a polygon, so that it is clear which pixels it covers"
        raise invalid(f"{name} is of the unknown kind {kind!r}", where, fix)
    return Shape(index[label], (_OUTLINES[kind](points),), where=name, clip=True)


def _kind(entry: Mapping[str, Any]) -> str:
    """Returns the kind of a shape: old versions of LabelMe write none for polygons."""
    return str(entry.get("shape_type") or "polygon")


def _points(values: Any) -> Points:
    return np.array(values, dtype=np.float64).reshape(-1, 2)


_OUTLINES: dict[str, Callable[[Points], Points]] = {
    "polygon": lambda points: points,
    "rectangle": lambda points: rectangle(*points.min(axis=0), *points.max(axis=0)),
    "oriented_rectangle": lambda points: points,
    "circle": lambda points: ellipse(points[0], np.hypot(*(points[-1] - points[0]))),
}


def _mask(entry: Any, points: Points, name: str, where: Path) -> Region:
    """Returns a mask shape: a PNG in base64, placed at its first point."""
    try:
        data = io.BytesIO(base64.b64decode(entry["mask"], validate=True))
        left, top = (int(value) for value in np.rint(points.min(axis=0)))
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise invalid(f"{name} is a mask without a picture or a place", where) from None
    with open_image(data, checksums=True) as image:
        return Region(top, left, np.asarray(image.convert("L")) > 0)
