"""COCO's folders: instance, stuff and panoptic annotations, and COCO-Stuff's pixel maps.

Lin et al., Microsoft COCO (arXiv:1405.0312); Caesar et al., COCO-Stuff (arXiv:1612.03716);
Kirillov et al., Panoptic Segmentation (arXiv:1801.00868).
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from atrous.classes import COCO_STUFF, COCO_STUFF_VALUES
from atrous.data.formats.coco_files import CocoShapes, PanopticReader, classes_of, read_coco
from atrous.data.formats.layout import (
    Found,
    Layout,
    Listing,
    find_files,
    pair,
    pick,
    split_by_name,
    split_name,
)
from atrous.data.masks.files import SUFFIXES
from atrous.data.masks.targets import MaskReader, ShapeReader

LOOKS_FOR = (
    "COCO: annotations/ with panoptic_*.json, instances_*.json or stuff_*.json, "
    "_annotations.coco.json beside pictures, such a file itself, or stuffthingmaps/"
)

_SPLIT = re.compile(r"train|val(id)?|test")
_NOT_SHAPES = ("captions", "person_keypoints", "image_info")
_COCO_NAMES = ("instances_", "stuff_", "panoptic_")

Splits = dict[str, Callable[[], Listing]]


def recognise(path: Path) -> Layout | None:
    """Returns the layout of a COCO folder, or of one kind of its JSON files if one is given.

    In a folder, panoptic files are preferred to pixel maps, those to instances, those to stuff.
    """
    if path.is_file():
        return _of_file(path)
    found = (*path.glob("annotations/*.json"), *path.glob("*.json"), *path.glob("*/*.coco.json"))
    files = sorted(p for p in found if _is_coco(p))
    panoptic = [p for p in files if p.name.startswith("panoptic")]
    stuff = [p for p in files if p.name.startswith("stuff")]
    if panoptic:
        return _of_segments(path, panoptic)
    others = [p for p in files if p not in stuff]
    return _of_pixel_maps(path) or (_of_shapes(path, others or stuff) if files else None)


def _of_file(path: Path) -> Layout | None:
    if path.suffix != ".json" or not _is_coco(path):
        return None
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    alike = [path]
    if path.name.startswith(_COCO_NAMES):
        kind = path.name.partition("_")[0]
        alike = sorted(path.parent.glob(f"{kind}_*.json"))
    return (_of_segments if path.name.startswith("panoptic") else _of_shapes)(root, alike)


def _is_coco(path: Path) -> bool:
    if path.name.startswith(_NOT_SHAPES):
        return False
    if path.name.startswith(_COCO_NAMES) or path.name.endswith(".coco.json"):
        return True
    with path.open("rb") as file:
        head = file.read(1 << 16)  # the file may be very large
    return b'"images"' in head or b'"categories"' in head


def _of_shapes(root: Path, documents: Sequence[Path]) -> Layout:
    stuff = documents[0].name.startswith("stuff")
    table, index = classes_of(read_coco(documents[0]), documents[0], background=not stuff)
    background = None if stuff else table.classes.index("background")
    reader = ShapeReader(CocoShapes(index), len(table.classes), background, "area")
    splits: Splits = {_split(p): partial(_listed, root, p) for p in documents}
    if splits.keys() == {"all"}:
        splits = split_by_name(splits["all"])
    return Layout("COCO stuff" if stuff else "COCO instances", root, table, reader, splits)


def _listed(root: Path, document: Path) -> Listing:
    """Lists a file's pictures; one without annotations is all background."""
    names = read_coco(document).pictures
    return pick(
        list(names),
        _pictures(root, document),
        Found(dict.fromkeys(names, document), ()),
        document,
    )


def _of_segments(root: Path, documents: Sequence[Path]) -> Layout:
    table, index = classes_of(read_coco(documents[0]), documents[0], background=False)
    folders = {_folder_of_segments(root, p): p for p in documents}
    reader = PanopticReader(folders, index, len(table.classes))
    splits = {
        _split(document): partial(_listed_segments, root, document, folder)
        for folder, document in folders.items()
    }
    return Layout("COCO panoptic", root, table, reader, splits)


def _folder_of_segments(root: Path, document: Path) -> Path:
    beside, above = document.with_suffix(""), root / document.stem
    return beside if beside.is_dir() or not above.is_dir() else above


def _listed_segments(root: Path, document: Path, folder: Path) -> Listing:
    names = list(read_coco(document).pictures)
    return pick(names, _pictures(root, document), find_files(folder, (".png",)), document)


def _pictures(root: Path, document: Path) -> Found:
    """Returns the pictures of the first folder that has any of those the file lists."""
    year = document.stem.rpartition("_")[2]  # "val2017"
    names = read_coco(document).pictures.keys()
    for parent in (root / "images", root, document.parent):
        for folder in (parent / year, parent / _split(document), parent):
            if folder.is_dir():
                found = find_files(folder)
                if not names.isdisjoint(found.files):
                    return found
    return Found({}, ())


def _split(document: Path) -> str:
    for name in (document.stem, document.parent.name):
        if match := _SPLIT.search(name):
            return split_name(match[0])
    return "all"


def _of_pixel_maps(path: Path) -> Layout | None:
    for masks in (path / "stuffthingmaps", path / "annotations"):
        splits: Splits = {
            split_name(match[0]): partial(_paired, pictures, folder)
            for folder in sorted(masks.glob("*/"))
            for pictures in (path / folder.name, path / "images" / folder.name)
            if (match := _SPLIT.match(folder.name))
            and pictures.is_dir()
            and any(folder.glob("*.png"))
        }
        if splits:
            mapping = {value: index for index, value in enumerate(COCO_STUFF_VALUES)}
            reader = MaskReader(len(COCO_STUFF.classes), mapping)
            return Layout("COCO-Stuff pixel maps", path, COCO_STUFF, reader, splits)
    return None


def _paired(pictures: Path, masks: Path) -> Listing:
    return pair(find_files(pictures), find_files(masks, SUFFIXES))
