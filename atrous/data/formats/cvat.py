"""CVAT's format for images: an XML file of outlines, masks, boxes and ellipses."""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from atrous.classes import Color
from atrous.data.dataset import Item
from atrous.data.formats.documents import check_size, invalid, once_per_file, read_field, read_xml
from atrous.data.formats.layout import Layout, class_table, shape_classes
from atrous.data.formats.pairing import Listing, find_pictures, pick_described, split_name
from atrous.data.formats.splits import divide
from atrous.data.masks.shapes import Points, Region, Shape, ellipse, rectangle
from atrous.data.masks.targets import ShapeReader
from atrous.errors import AtrousError, DataError
from atrous.predict.rle import decode_runs

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_COVERS_NOTHING = ("tag", "attribute", "points", "polyline", "skeleton")

LOOKS_FOR = "CVAT for images 1.1: annotations.xml, or such a file itself, beside images/"


class _Picture(NamedTuple):
    name: str
    subset: str
    size: tuple[int, int]  # height, width
    elements: tuple["Element", ...]  # its shapes, lowest first


_Content = tuple[list[tuple[str, Color | None]], dict[str, _Picture]]  # labels; by subset and name


def recognise(path: Path) -> Layout | None:
    """Returns the layout of an XML file, or of the folder with the file. Background is class 0."""
    document = path / "annotations.xml" if path.is_dir() else path
    if document.suffix.lower() != ".xml" or not document.is_file():
        return None
    labels, pictures = _read(document)
    colors = {"background": (0, 0, 0), **dict(labels)}
    names, index = shape_classes(["background", *(name for name, _ in labels)])
    palette = [color for name in names if (color := colors.get(name)) is not None]
    table = class_table(
        "cvat", names, palette if len(palette) == len(names) else (), where=document
    )
    reader = ShapeReader(partial(_shapes, index=index), len(names), 0, "given")
    subsets = sorted({picture.subset for picture in pictures.values()})
    if len(subsets) < 2 and split_name("".join(subsets)) in ("", "default"):
        splits = divide(partial(_listed, document, "".join(subsets)), document.parent)
    else:
        common = Counter(map(split_name, subsets))
        splits = {
            split_name(s) if common[split_name(s)] == 1 else s: partial(_listed, document, s)
            for s in subsets
        }
    return Layout("CVAT for images", document.parent, table, reader, splits)


@once_per_file
def _read(path: Path) -> _Content:
    root = read_xml(path)
    if root.tag != "annotations" or root.find("track") is not None:
        raise invalid(
            "not a file in CVAT's format for images",
            path,
            "export the task as «CVAT for images 1.1»; the format for video holds tracks",
        )
    labels = [
        (label.findtext("name", ""), _color(label.findtext("color", "")))
        for label in root.iterfind("meta//labels/label")
        if label.find("parent") is None  # CVAT lists the points of a skeleton as labels, too
    ]
    pictures: dict[str, _Picture] = {}
    for image in root.iterfind("image"):
        name = read_field(image.attrib, "name", str, path, "<image>")
        subset = image.get("subset", "")
        size = (_integer(image, "height", path), _integer(image, "width", path))
        ordered = sorted(image, key=lambda e: int(e.get("z_order", "0") or 0))
        key = f"{subset}/{name}" if subset else name
        if key in pictures:
            raise DataError(
                "E-DATA-TWICE",
                f"the image {name} of subset {subset!r} is listed twice",
                where=path,
                fix="export each task on its own, or rename one of the two pictures",
            )
        pictures[key] = _Picture(name, subset, size, tuple(ordered))
    return labels, pictures


def _color(text: str) -> Color | None:
    try:
        red, green, blue = bytes.fromhex(text.removeprefix("#"))
    except ValueError:
        return None
    return red, green, blue


def _listed(document: Path, subset: str) -> Listing:
    """Lists the pictures of a subset: in its own folder, or else where all pictures are."""
    _, pictures = _read(document)
    keys = {picture.name: key for key, picture in pictures.items() if picture.subset == subset}
    others = {picture.name for picture in pictures.values() if picture.subset != subset}
    root = document.parent
    own = [f for f in (root / "images" / subset, root / subset) if subset and f.is_dir()]
    shared = [folder for folder in (root / "images", root) if folder.is_dir()]
    split = split_name(subset)
    matched = find_pictures(keys, own, shared, split=split, others=others, conflicting=others)
    listing = pick_described(keys, matched, document)
    items = (item._replace(name=keys[item.name]) for item in listing.items)
    return Listing(tuple(items), listing.problems)


def _shapes(item: Item, size: tuple[int, int], *, index: Mapping[str, int]) -> list[Shape]:
    """Returns the shapes of an item whose picture has (height, width).

    Tags, points, lines and skeletons cover no pixels and are skipped. A cuboid covers
    pixels, but its corners do not tell which, so it is refused.

    Args:
        item: The item.
        size: Height and width.
        index: Label -> value in the target.
    """
    _, pictures = _read(item.file)
    picture = pictures[item.key]
    check_size(picture.size, size, item.key, item.file)
    return [
        _shape(element, f"image {item.key}, shape {i} ({element.tag})", item.file, index)
        for i, element in enumerate(picture.elements)
        if element.tag not in _COVERS_NOTHING
    ]


def _shape(element: "Element", name: str, where: Path, index: Mapping[str, int]) -> Shape:
    value = read_field(index, element.get("label"), int, where, name)
    if element.tag == "mask":
        return Shape(value, (), _mask(element, name, where), name)
    if element.tag not in _OUTLINES:
        fix = "draw a polygon or a mask instead"
        raise invalid(f"{name} has no outline of the pixels it covers", where, fix)
    try:
        outline = _OUTLINES[element.tag](element.attrib)
        # CVAT keeps polygons within the picture; turned boxes and ellipses may leave it.
        return Shape(value, (outline,), where=name, clip=element.tag != "polygon")
    except (KeyError, ValueError):
        raise invalid(f"{name}: its numbers cannot be read", where) from None


def _polygon(attributes: Mapping[str, str]) -> Points:
    pairs = [point.split(",") for point in attributes["points"].split(";")]
    return np.array([(float(x), float(y)) for x, y in pairs])


def _box(attributes: Mapping[str, str]) -> Points:
    corners = rectangle(*(float(attributes[key]) for key in ("xtl", "ytl", "xbr", "ybr")))
    return _turned(corners, float(attributes.get("rotation", "0")))


def _ellipse(attributes: Mapping[str, str]) -> Points:
    x, y, rx, ry = (float(attributes[key]) for key in ("cx", "cy", "rx", "ry"))
    return _turned(ellipse((x, y), (rx, ry)), float(attributes.get("rotation", "0")))


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
