"""LabelMe: a JSON file of shapes for each picture."""

import base64
import binascii
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from atrous.data.dataset import Item, ignore_index
from atrous.data.formats.class_files import find_class_file
from atrous.data.formats.documents import invalid, read_field, read_json
from atrous.data.formats.layout import (
    Found,
    Layout,
    Listing,
    class_table,
    find_files,
    pair,
    split_by_name,
    split_name,
)
from atrous.data.masks.shapes import Points, Region, Shape
from atrous.data.masks.targets import ShapeReader
from atrous.errors import unknown_name
from atrous.images.decode import open_image

LOOKS_FOR = "LabelMe: a JSON file with shapes beside each picture, in one folder or one a split"

_BACKGROUND, _IGNORE = "_background_", "__ignore__"
_SPLITS = ("train", "training", "val", "valid", "validation", "test")
_CIRCLE_CORNERS = 64


def recognise(path: Path) -> Layout | None:
    """Returns the layout of a folder of LabelMe files; background is class 0, others by name."""
    if not path.is_dir() or not _is_labelme(path):
        return None
    found = find_class_file(path)
    names = list(found.table.classes) if found else _labels_in(path)
    others = [name for name in names if name not in (_BACKGROUND, "background", _IGNORE)]
    table = class_table("labelme", ["background", *others], where=path)
    index = {name: i for i, name in enumerate(table.classes)}
    index |= {_BACKGROUND: 0, _IGNORE: ignore_index(len(table.classes))}
    splits: dict[str, Callable[[], Listing]] = {
        split_name(name): partial(_listed, path / name)
        for name in _SPLITS
        if (path / name).is_dir()
    }
    splits = splits or split_by_name(partial(_listed, path))
    reader = ShapeReader(LabelMeShapes(index), len(table.classes), 0, "given")
    return Layout("LabelMe", path, table, reader, splits)


def _is_labelme(path: Path) -> bool:
    for file in list(find_files(path, (".json",)).files.values())[:3]:
        with file.open("rb") as stream:
            if b'"shapes"' in stream.read(1 << 16):
                return True
    return False


def _labels_in(path: Path) -> list[str]:
    labels = set()
    for file in find_files(path, (".json",)).files.values():
        shapes = read_field(read_json(file), "shapes", list, file, "the file")
        labels |= {read_field(s, "label", str, file, f"shape {i}") for i, s in enumerate(shapes)}
    return sorted(labels)


def _listed(folder: Path) -> Listing:
    """Pairs JSON files and pictures by name, or else by the path a JSON file gives."""
    pictures, files = find_files(folder), find_files(folder, (".json",))
    named = dict(pictures.files)
    lost = {key: path for key, path in files.files.items() if key not in named}
    keys = {path.resolve(): key for key, path in named.items()} if lost else {}
    for key, path in lost.items():
        name = PureWindowsPath(str(read_json(path).get("imagePath", ""))).as_posix()
        picture = path.parent / name
        if picture.is_file():
            picture = picture.resolve()
            named.pop(keys.get(picture, ""), None)
            named[key] = picture
    return pair(Found(named, pictures.problems), files)


@dataclass(frozen=True)
class LabelMeShapes:
    """Reads the shapes of a picture's file.

    Args:
        index: Label -> class index.
    """

    index: Mapping[str, int]

    def __call__(self, item: Item, size: tuple[int, int]) -> list[Shape]:
        """Returns the shapes of an item whose picture has (height, width)."""
        where = item.annotation
        assert where is not None
        document = read_json(where)
        stated = (document.get("imageHeight") or size[0], document.get("imageWidth") or size[1])
        if stated != size:
            raise invalid(f"drawn on {stated}, the picture is {size} (height, width)", where)
        entries = read_field(document, "shapes", list, where, "the file")
        return [self._shape(entry, f"shape {i}", where) for i, entry in enumerate(entries)]

    def _shape(self, entry: Any, name: str, where: Path) -> Shape:
        label = read_field(entry, "label", str, where, name)
        if label not in self.index:
            error = unknown_name("label", label, self.index)
            raise invalid(f"{name}: {error.what}", where, error.fix)
        name = f"{name} {label!r}"
        points = read_field(entry, "points", _points, where, name)
        kind = str(entry.get("shape_type", "polygon"))
        if kind == "mask":
            return Shape(self.index[label], (), _mask(entry, points, name, where), name)
        if kind not in _OUTLINES:
            raise invalid(f"{name} is a {kind}, which covers no pixels", where, "delete the shape")
        return Shape(self.index[label], (_OUTLINES[kind](points),), where=name)


def _points(values: Any) -> Points:
    return np.array(values, dtype=np.float64).reshape(-1, 2)


def _rectangle(points: Points) -> Points:
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _circle(points: Points) -> Points:
    center, radius = points[0], np.hypot(*(points[-1] - points[0]))
    angles = np.linspace(0, 2 * np.pi, _CIRCLE_CORNERS, endpoint=False)
    outline: Points = center + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return outline


def _polygon(points: Points) -> Points:
    return points


_OUTLINES = {"polygon": _polygon, "rectangle": _rectangle, "circle": _circle}


def _mask(entry: Any, points: Points, name: str, where: Path) -> Region:
    """Returns a mask shape: a PNG in base64, placed at its first point."""
    try:
        data = io.BytesIO(base64.b64decode(entry["mask"], validate=True))
        left, top = (int(value) for value in np.rint(points.min(axis=0)))
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise invalid(f"{name} is a mask without a picture or a place", where) from None
    with open_image(data, checksums=True) as image:
        return Region(top, left, np.asarray(image.convert("L")) > 0)
