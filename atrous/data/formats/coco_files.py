"""COCO's JSON files: classes, pictures, outlines, run lengths and panoptic segments."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atrous.classes import ClassTable, Color, color_of, pascal_palette, unlabelled
from atrous.data.dataset import Item, Target, target_dtype
from atrous.data.formats.documents import check_size, invalid, once_per_file, read_field, read_json
from atrous.data.formats.layout import class_table, shape_classes
from atrous.data.masks.shapes import Region, Shape
from atrous.errors import AtrousError, DataError
from atrous.images.decode import open_image
from atrous.predict.rle import decode_coco


@dataclass(frozen=True)
class CocoFile:
    """The content of a file, by picture."""

    categories: tuple[dict[str, Any], ...]  # in the order of their ids
    pictures: Mapping[str, tuple[int, int, int]]  # file name -> id, height, width
    annotations: Mapping[int, Sequence[Any]]  # picture id -> its annotations
    segments: Mapping[str, str]  # file name of a picture -> of its panoptic PNG
    homeless: tuple[tuple[object, int], ...]  # id of an annotation, id of the missing image

    def of_picture(self, name: str, where: object) -> tuple[Sequence[Any], tuple[int, int]]:
        """Returns a picture's annotations and (height, width)."""
        id_, height, width = read_field(self.pictures, name, tuple, where, "images")
        return self.annotations.get(id_, ()), (height, width)

    def differing(self, other: "CocoFile") -> set[str]:
        """Returns the names that another file annotates differently."""

        def drawn(file: CocoFile, name: str) -> list[Any]:
            entries = file.annotations.get(file.pictures[name][0], ())
            return [entry.get("segmentation") for entry in entries]

        shared = self.pictures.keys() & other.pictures.keys()
        return {name for name in shared if drawn(self, name) != drawn(other, name)}

    @property
    def used(self) -> set[object]:
        """Ids of the categories that annotations refer to."""
        entries = [entry for of_one in self.annotations.values() for entry in of_one]
        segments = [entry.get("segments_info") for entry in entries]
        infos = [info for of_one in segments if isinstance(of_one, list) for info in of_one]
        ids = (entry.get("category_id") for entry in (*entries, *infos) if isinstance(entry, dict))
        return {id_ for id_ in ids if isinstance(id_, int)}


@once_per_file
def read_coco(path: Path) -> CocoFile:
    """Reads a COCO file.

    Raises:
        AtrousError: The file cannot be read, lacks a field, or uses an id or a file name twice.
    """
    document = read_json(path)
    pictures: dict[str, tuple[int, int, int]] = {}
    for entry in read_field(document, "images", list, path, "the file"):
        name = read_field(entry, "file_name", str, path, "an image")
        id_, height, width = (
            read_field(entry, key, int, path, f"image {name}") for key in ("id", "height", "width")
        )
        if name in pictures:
            raise _twice(f"the image {name}", path)
        pictures[name] = (id_, height, width)
    names = {id_: name for name, (id_, _, _) in pictures.items()}
    _check_ids([id_ for id_, _, _ in pictures.values()], "image", path)
    annotations: dict[int, list[Any]] = {}
    segments: dict[str, str] = {}
    homeless, ids = [], []
    for entry in read_field(document, "annotations", list, path, "the file"):
        image_id = read_field(entry, "image_id", int, path, "an annotation")
        if not isinstance(entry, dict):
            raise invalid("an annotation is not an object", path)
        ids.append(entry.get("id"))
        if image_id not in names:
            homeless.append((entry.get("id"), image_id))
        elif "segments_info" in entry:
            if names[image_id] in segments:
                raise _twice(f"the segments of {names[image_id]}", path)
            segments[names[image_id]] = read_field(entry, "file_name", str, path, "an annotation")
        annotations.setdefault(image_id, []).append(entry)
    _check_ids([id_ for id_ in ids if isinstance(id_, int)], "annotation", path)
    categories = read_field(document, "categories", list, path, "the file")
    named = [(read_field(c, "id", int, path, "a category"), c) for c in categories]
    by_id = [category | {"id": id_} for id_, category in sorted(named, key=lambda pair: pair[0])]
    _check_ids([category["id"] for category in by_id], "category", path)
    return CocoFile(tuple(by_id), pictures, annotations, segments, tuple(homeless))


def _check_ids(ids: Sequence[int], kind: str, path: Path) -> None:
    repeated = [id_ for id_, count in Counter(ids).items() if count > 1]
    if repeated:
        more = f" and {len(repeated) - 1} more" if len(repeated) > 1 else ""
        raise _twice(f"the {kind} id {repeated[0]}{more}", path)


def _twice(what: str, path: Path) -> AtrousError:
    return DataError(
        "E-DATA-TWICE",
        f"{what} occurs twice, so that it is unclear which annotation belongs to which picture",
        where=path,
        fix="give every entry an id of its own, as tools that merge COCO files do",
    )


def classes_of(
    documents: Sequence[Path], *, background: bool
) -> tuple[ClassTable, dict[Path, dict[int, int]]]:
    """Returns the classes of several files, and for each file category id -> class index.

    Classes are in the order of the first file's category ids. Other files may number the same
    names otherwise, and add names.

    Args:
        documents: The files.
        background: Whether a class for everything else comes first, if there is none.

    Raises:
        AtrousError: A file cannot be read, or two of its categories have the same name.
    """
    files = {document: read_coco(document) for document in documents}
    used = {
        (category["id"], str(category.get("name")))
        for file in files.values()
        for category in file.categories
        if category["id"] in file.used
    }
    names: dict[Path, dict[int, str]] = {}
    colors: dict[str, Color] = {}
    for document, file in files.items():
        names[document] = {}
        for category in file.categories:
            name = read_field(category, "name", str, document, "a category")
            if (category["id"], name) not in used and _is_root(category, file.categories):
                continue
            names[document][category["id"]] = name
            if category.get("color"):
                colors[name] = read_field(category, "color", color_of, document, "a category")
        class_table("coco", list(names[document].values()), where=document)  # no name twice
    labels = list(dict.fromkeys(name for of_one in names.values() for name in of_one.values()))
    classes, values = shape_classes(labels, background=background)
    palette = list(pascal_palette(len(classes)))
    for label, color in colors.items():
        if values[label] < len(classes):
            palette[values[label]] = color
    table = class_table("coco", classes, palette, where=documents[0])
    return table, {
        document: {id_: values[name] for id_, name in of_one.items()}
        for document, of_one in names.items()
    }


def _is_root(category: Mapping[str, Any], categories: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether a category only groups others, like Roboflow's first category."""
    return category.get("supercategory") in (None, "", "none") and any(
        other.get("supercategory") == category.get("name")
        for other in categories
        if other is not category
    )


def coco_shapes(
    item: Item, size: tuple[int, int], *, index: Mapping[Path, Mapping[int, int]]
) -> list[Shape]:
    """Returns the outlines and run lengths of an item whose picture has (height, width).

    Args:
        item: The item.
        size: Height and width.
        index: For each file, category id -> class index.
    """
    annotations, stated = read_coco(item.file).of_picture(item.key, item.file)
    check_size(stated, size, item.key, item.file)
    return [_shape(entry, size, item.file, index[item.file]) for entry in annotations]


def _shape(entry: Any, size: tuple[int, int], where: Path, index: Mapping[int, int]) -> Shape:
    name = f"annotation {entry.get('id') if isinstance(entry, dict) else entry!r}"
    category = read_field(entry, "category_id", int, where, name)
    value = read_field(index, category, int, where, f"{name}, categories")
    segmentation = read_field(entry, "segmentation", lambda s: s, where, name)
    if segmentation == []:
        fix = "draw its outline, or remove such annotations from the file"
        raise invalid(f"{name} is a box or a point without an outline", where, fix)
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
        index: For each file, category id -> class index.
        num_classes: Number of classes K.
    """

    documents: Mapping[Path, Path]
    index: Mapping[Path, Mapping[int, int]]
    num_classes: int

    def __call__(self, item: Item, size: tuple[int, int]) -> Target:
        """Returns the target (H, W) of an item."""
        where = item.file
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
        entries, _ = read_coco(document).of_picture(item.key, document)
        values = {0: unlabelled(self.num_classes)}
        for entry in entries:
            for segment in read_field(entry, "segments_info", list, document, item.key):
                id_ = read_field(segment, "id", int, document, item.key)
                category = read_field(segment, "category_id", int, document, item.key)
                index = self.index[document]
                values[id_] = read_field(index, category, int, document, "categories")
        return values
