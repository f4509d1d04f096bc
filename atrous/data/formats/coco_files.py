"""What COCO's JSON files say: classes, pictures, outlines, run lengths and panoptic segments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atrous.classes import ClassTable, Color, pascal_palette
from atrous.data.dataset import Item, Target, ignore_index, target_dtype
from atrous.data.formats.documents import invalid, once_per_file, read_field, read_json
from atrous.data.formats.layout import class_table, key_of
from atrous.data.masks.shapes import Region, Shape
from atrous.errors import AtrousError
from atrous.images.decode import open_image
from atrous.predict.rle import decode_coco


@dataclass(frozen=True)
class CocoFile:
    """The content of a file, by picture."""

    categories: tuple[dict[str, Any], ...]  # in the order of their ids
    pictures: Mapping[str, tuple[int, int, int]]  # name without suffix -> id, height, width
    annotations: Mapping[int, Sequence[Any]]  # picture id -> its annotations

    def of_picture(self, name: str, where: object) -> tuple[Sequence[Any], tuple[int, int]]:
        """Returns a picture's annotations and (height, width)."""
        id_, height, width = read_field(self.pictures, name, tuple, where, "images")
        return self.annotations.get(id_, ()), (height, width)


@once_per_file
def read_coco(path: Path) -> CocoFile:
    """Reads a COCO file.

    Raises:
        AtrousError: It cannot be read, or lacks what a COCO file has.
    """
    document = read_json(path)
    pictures = {}
    for entry in read_field(document, "images", list, path, "the file"):
        name = read_field(entry, "file_name", str, path, "an image")
        id_, height, width = (
            read_field(entry, key, int, path, f"image {name}") for key in ("id", "height", "width")
        )
        pictures[key_of(name)] = (id_, height, width)
    annotations: dict[int, list[Any]] = {}
    for entry in read_field(document, "annotations", list, path, "the file"):
        image_id = read_field(entry, "image_id", int, path, "an annotation")
        annotations.setdefault(image_id, []).append(entry)
    categories = read_field(document, "categories", list, path, "the file")
    by_id = sorted(categories, key=lambda c: read_field(c, "id", int, path, "a category"))
    return CocoFile(tuple(by_id), pictures, annotations)


def classes_of(
    coco: CocoFile, where: Path, *, background: bool
) -> tuple[ClassTable, dict[int, int]]:
    """Returns a file's classes in the order of category ids, and category id -> class index.

    Args:
        coco: The file's content.
        where: The file.
        background: Whether a class for everything else comes first, if there is none.
    """
    names = {c["id"]: read_field(c, "name", str, where, "a category") for c in coco.categories}
    classes = list(names.values())
    if background and "background" not in classes:
        classes.insert(0, "background")
    palette = list(pascal_palette(len(classes)))
    for category in coco.categories:
        if category.get("color"):
            place = classes.index(names[category["id"]])
            palette[place] = read_field(category, "color", _color, where, "a category")
    table = class_table("coco", classes, palette, where=where)
    return table, {id_: classes.index(name) for id_, name in names.items()}


def _color(value: Any) -> Color:
    red, green, blue = (int(channel) for channel in value)
    if not all(0 <= channel <= 255 for channel in (red, green, blue)):
        raise ValueError("not of 0..255")
    return red, green, blue


@dataclass(frozen=True)
class CocoShapes:
    """Reads a picture's outlines and run lengths.

    Args:
        index: Category id -> class index.
    """

    index: Mapping[int, int]

    def __call__(self, item: Item, size: tuple[int, int]) -> list[Shape]:
        """Returns the shapes of an item whose picture has (height, width)."""
        where = item.annotation
        assert where is not None
        annotations, stated = read_coco(where).of_picture(item.name, where)
        if stated != size:
            raise invalid(f"{item.name} is {stated} there and {size} itself (height, width)", where)
        return [self._shape(entry, size, where) for entry in annotations]

    def _shape(self, entry: Any, size: tuple[int, int], where: Path) -> Shape:
        name = f"annotation {entry.get('id') if isinstance(entry, dict) else entry!r}"
        category = read_field(entry, "category_id", int, where, name)
        value = read_field(self.index, category, int, where, f"{name}, categories")
        segmentation = read_field(entry, "segmentation", lambda s: s, where, name)
        if isinstance(segmentation, dict):
            try:
                return Shape(value, (), Region(0, 0, decode_coco(segmentation, size)), name)
            except AtrousError as error:
                raise invalid(f"{name}: {error.what}", where) from None
        try:
            outlines = [np.array(flat, dtype=np.float64).reshape(-1, 2) for flat in segmentation]
        except (ValueError, TypeError):
            raise invalid(f"{name}: its segmentation is no list of x, y", where) from None
        return Shape(value, tuple(outlines), where=name)


@dataclass(frozen=True)
class PanopticReader:
    """Reads targets from panoptic PNGs, whose colours are segment ids (a `ReadTarget`).

    Args:
        documents: Folder of PNGs -> the JSON file that describes them.
        index: Category id -> class index.
        num_classes: Number of classes K.
    """

    documents: Mapping[Path, Path]
    index: Mapping[int, int]
    num_classes: int

    def __call__(self, item: Item, size: tuple[int, int]) -> Target:
        """Returns the target (H, W) of an item."""
        where = item.annotation
        assert where is not None
        with open_image(where, checksums=True) as image:
            if image.mode != "RGB":
                raise invalid(f"a panoptic PNG of mode {image.mode}, not RGB", where)
            pixels = np.asarray(image).astype(np.uint32)  # (H, W, 3)
        ids = pixels[..., 0] | pixels[..., 1] << 8 | pixels[..., 2] << 16
        present, inverse = np.unique(ids, return_inverse=True)
        values = self._values(item, where)
        try:
            table = np.array([values[id_] for id_ in present.tolist()])
        except KeyError as error:
            raise invalid(f"segment {error} is not in segments_info", where) from None
        return table[inverse.reshape(ids.shape)].astype(target_dtype(self.num_classes))

    def _values(self, item: Item, where: Path) -> dict[int, int]:
        """Returns segment id -> class index; 0 is unlabelled."""
        document = next(self.documents[p] for p in where.parents if p in self.documents)
        entries, _ = read_coco(document).of_picture(item.name, document)
        values = {0: ignore_index(self.num_classes)}
        for entry in entries:
            for segment in read_field(entry, "segments_info", list, document, item.name):
                id_ = read_field(segment, "id", int, document, item.name)
                category = read_field(segment, "category_id", int, document, item.name)
                values[id_] = read_field(self.index, category, int, document, "categories")
        return values
