"""CVAT's own format for pictures: one XML file of outlines, masks, boxes and ellipses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atrous.classes import Color
from atrous.data.dataset import Item
from atrous.data.formats.documents import invalid, once_per_file, read_field, read_xml
from atrous.data.formats.layout import (
    Found,
    Layout,
    Listing,
    class_table,
    find_files,
    key_of,
    pick,
    split_by_name,
    split_name,
)
from atrous.data.masks.shapes import Points, Region, Shape
from atrous.data.masks.targets import ShapeReader
from atrous.errors import AtrousError
from atrous.predict.rle import decode_runs

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

LOOKS_FOR = "CVAT for images 1.1: annotations.xml, or such a file itself, beside images/"

_ELLIPSE_CORNERS = 64


@dataclass(frozen=True)
class _Picture:
    size: tuple[int, int]  # height, width
    subset: str
    elements: tuple["Element", ...]  # its shapes, lowest first


@dataclass(frozen=True)
class _CvatFile:
    labels: tuple[tuple[str, Color | None], ...]
    pictures: Mapping[str, _Picture]  # by name without suffix


def recognise(path: Path) -> Layout | None:
    """Returns the layout of an XML file or the folder it is in; background is class 0."""
    document = path / "annotations.xml" if path.is_dir() else path
    if document.suffix != ".xml" or not document.is_file():
        return None
    content = _read(document)
    labels = [label for label in content.labels if label[0] != "background"]
    names = ["background", *(name for name, _ in labels)]
    colors = [(0, 0, 0), *(color for _, color in labels)]
    palette = [c for c in colors if c is not None]
    table = class_table(
        "cvat", names, palette if len(palette) == len(names) else (), where=document
    )
    index = {name: i for i, name in enumerate(names)}
    reader = ShapeReader(CvatShapes(index), len(names), 0, "given")
    subsets = sorted({picture.subset for picture in content.pictures.values()})
    splits: dict[str, Callable[[], Listing]] = {
        split_name(subset): partial(_listed, document, subset) for subset in subsets
    }
    if len(splits) == 1:
        splits = split_by_name(next(iter(splits.values())))
    return Layout("CVAT for images", document.parent, table, reader, splits)


@once_per_file
def _read(path: Path) -> _CvatFile:
    root = read_xml(path)
    if root.tag != "annotations" or root.find("track") is not None:
        raise invalid(
            "not CVAT's format for images",
            path,
            "export the task as «CVAT for images 1.1»; the format for video keeps tracks",
        )
    labels = tuple(
        (label.findtext("name", ""), _color(label.findtext("color", "")))
        for label in root.iterfind("meta//labels/label")
    )
    pictures = {}
    for image in root.iterfind("image"):
        name = key_of(_text(image, "name", path))
        size = (_integer(image, "height", path), _integer(image, "width", path))
        ordered = sorted(image, key=lambda e: int(e.get("z_order", "0") or 0))
        pictures[name] = _Picture(size, image.get("subset", ""), tuple(ordered))
    return _CvatFile(labels, pictures)


def _color(text: str) -> Color | None:
    try:
        red, green, blue = bytes.fromhex(text.removeprefix("#"))
    except ValueError:
        return None
    return red, green, blue


def _listed(document: Path, subset: str) -> Listing:
    pictures = _read(document).pictures
    names = [name for name, picture in pictures.items() if picture.subset == subset]
    folder = document.parent
    candidates = [folder / "images" / subset, folder / "images", folder / subset, folder]
    found = [find_files(candidate) for candidate in candidates if candidate.is_dir()]
    best = max(found, key=lambda f: len(f.files.keys() & set(names)), default=Found({}, ()))
    return pick(names, best, Found(dict.fromkeys(names, document), ()), document)


@dataclass(frozen=True)
class CvatShapes:
    """Reads a picture's shapes; tags, points and lines cover nothing and are passed over.

    Args:
        index: Label -> class index.
    """

    index: Mapping[str, int]

    def __call__(self, item: Item, size: tuple[int, int]) -> list[Shape]:
        """Returns the shapes of an item whose picture has (height, width)."""
        where = item.annotation
        assert where is not None
        picture = _read(where).pictures[item.name]
        if picture.size != size:
            raise invalid(
                f"{item.name} is {picture.size} there and {size} itself (height, width)", where
            )
        return [
            self._shape(element, f"image {item.name}, shape {i} ({element.tag})", where)
            for i, element in enumerate(picture.elements)
            if element.tag in _OUTLINES or element.tag == "mask"
        ]

    def _shape(self, element: "Element", name: str, where: Path) -> Shape:
        value = read_field(self.index, element.get("label"), int, where, name)
        if element.tag == "mask":
            return Shape(value, (), _mask(element, name, where), name)
        try:
            return Shape(value, (_OUTLINES[element.tag](element.attrib),), where=name)
        except (KeyError, ValueError):
            raise invalid(f"{name}: its numbers cannot be read", where) from None


def _polygon(attributes: Mapping[str, str]) -> Points:
    pairs = [point.split(",") for point in attributes["points"].split(";")]
    return np.array([(float(x), float(y)) for x, y in pairs])


def _box(attributes: Mapping[str, str]) -> Points:
    left, top, right, bottom = (float(attributes[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    return _turned(corners, float(attributes.get("rotation", "0")))


def _ellipse(attributes: Mapping[str, str]) -> Points:
    x, y, rx, ry = (float(attributes[key]) for key in ("cx", "cy", "rx", "ry"))
    angles = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)
    outline = np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)
    return _turned(outline, float(attributes.get("rotation", "0")))


def _turned(outline: Points, degrees: float) -> Points:
    """Turns an outline about its centre, clockwise as seen."""
    angle = np.deg2rad(degrees)
    turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    center = outline.mean(axis=0)
    turned: Points = (outline - center) @ turn + center
    return turned


_OUTLINES = {"polygon": _polygon, "box": _box, "ellipse": _ellipse}


def _mask(element: "Element", name: str, where: Path) -> Region:
    """Returns a mask: run lengths row by row within a box."""
    keys = ("left", "top", "width", "height")
    left, top, width, height = (_integer(element, key, where) for key in keys)
    try:
        counts = [int(count) for count in (element.get("rle") or "").split(",")]
        return Region(top, left, decode_runs(counts, height * width).reshape(height, width))
    except AtrousError as error:
        raise invalid(f"{name}: {error.what}", where) from None
    except ValueError:
        raise invalid(f"{name}: its run lengths cannot be read", where) from None


def _integer(element: "Element", key: str, where: Path) -> int:
    return read_field(element.attrib, key, int, where, f"<{element.tag}>")


def _text(element: "Element", key: str, where: Path) -> str:
    return read_field(element.attrib, key, str, where, f"<{element.tag}>")
