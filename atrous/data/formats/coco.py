"""COCO's folders: instance, stuff and panoptic annotations, and COCO-Stuff's pixel maps.

Lin et al., Microsoft COCO (arXiv:1405.0312); Caesar et al., COCO-Stuff (arXiv:1612.03716);
Kirillov et al., Panoptic Segmentation (arXiv:1801.00868).
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from atrous.classes import COCO_STUFF, COCO_STUFF_VALUES
from atrous.data.formats.coco_files import PanopticReader, classes_of, coco_shapes, read_coco
from atrous.data.formats.documents import holds_keys, invalid
from atrous.data.formats.layout import Layout, is_background
from atrous.data.formats.pairing import (
    SPLITS,
    Listing,
    Matched,
    Problem,
    find_files,
    find_pictures,
    match,
    pair_folders,
    pick_described,
    split_name,
)
from atrous.data.formats.splits import Splits, divide
from atrous.data.masks.targets import MaskReader, ShapeReader

LOOKS_FOR = (
    "COCO: annotations/ with panoptic_*.json, instances_*.json or stuff_*.json, "
    "_annotations.coco.json beside pictures, such a file itself, or stuffthingmaps/"
)

_SPLIT = re.compile(
    r"(?<![a-z])(train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?)(?:set)?(?![a-z])", re.IGNORECASE
)
_NOT_SHAPES = ("captions", "person_keypoints", "image_info")
_COCO_NAMES = ("instances_", "stuff_", "panoptic_")


def recognise(path: Path) -> Layout | None:
    """Returns the layout of a COCO folder, or of a JSON file and its siblings of the same kind.

    In a folder, panoptic files come first, then pixel maps, then instances, then stuff.
    """
    if path.is_file():
        return _of_file(path)
    found = (*path.glob("annotations/*.json"), *path.glob("*.json"), *path.glob("*/*.coco.json"))
    files = sorted(p for p in found if _is_coco(p))
    panoptic = [p for p in files if _is_panoptic(p)]
    stuff = [p for p in files if p.name.startswith("stuff")]
    if panoptic:
        return _of_segments(path, panoptic)
    others = [p for p in files if p not in stuff]
    return _of_pixel_maps(path) or (_of_shapes(path, others or stuff) if files else None)


def _of_file(path: Path) -> Layout | None:
    if path.suffix.lower() != ".json" or not _is_coco(path):
        return None
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    alike = [path]
    if path.name.startswith(_COCO_NAMES):
        kind = path.name.partition("_")[0]
        alike = sorted(path.parent.glob(f"{kind}_*.json"))
    return (_of_segments if _is_panoptic(path) else _of_shapes)(root, alike)


def _is_coco(path: Path) -> bool:
    if path.name.startswith(_NOT_SHAPES):
        return False
    if path.name.startswith(_COCO_NAMES) or path.name.endswith(".coco.json"):
        return True
    return holds_keys(path, "images", "annotations", "categories")


def _is_panoptic(path: Path) -> bool:
    return path.name.startswith("panoptic") or holds_keys(path, "segments_info")


def _of_shapes(root: Path, documents: Sequence[Path]) -> Layout:
    stuff = documents[0].name.startswith("stuff")
    table, index = classes_of(documents, background=not stuff)
    background = next((k for k, name in enumerate(table.classes) if is_background(name)), None)
    reader = ShapeReader(partial(coco_shapes, index=index), len(table.classes), background, "area")
    splits: Splits = {
        split: partial(_listed, root, document, split, tuple(documents))
        for split, document in _splits(root, documents).items()
    }
    if len(documents) == 1 and not splits.keys() & set(SPLITS):
        splits = divide(next(iter(splits.values())), root)
    return Layout("COCO stuff" if stuff else "COCO instances", root, table, reader, splits)


def _listed(root: Path, document: Path, split: str, documents: Sequence[Path]) -> Listing:
    """Lists a file's pictures. A picture without annotations is all background."""
    coco = read_coco(document)
    others = [read_coco(other) for other in documents if other != document]
    pictures = _pictures(
        root,
        document,
        split,
        others={name for other in others for name in other.pictures},
        conflicting={name for other in others for name in coco.differing(other)},
    )
    listing = pick_described(coco.pictures, pictures, document)
    lost = (
        Problem("E-DATA-NO-PICTURE", f"annotation {id_} is of image {image}, not listed", document)
        for id_, image in coco.homeless
    )
    return Listing(listing.items, (*listing.problems, *lost))


def _of_segments(root: Path, documents: Sequence[Path]) -> Layout:
    table, index = classes_of(documents, background=False)
    folders: dict[Path, Path] = {}
    for document in documents:
        folder = _folder_of_segments(root, document)
        if folder in folders:
            raise invalid(
                f"its PNG files and the PNG files of {folders[folder]} share a folder", document
            )
        folders[folder] = document
    reader = PanopticReader(folders, index, len(table.classes))
    splits: Splits = {
        split: partial(_listed_segments, root, document, folder, split)
        for (split, document), folder in zip(_splits(root, documents).items(), folders, strict=True)
    }
    return Layout("COCO panoptic", root, table, reader, splits)


def _folder_of_segments(root: Path, document: Path) -> Path:
    """Returns the folder that holds most of the PNG files a panoptic file names."""
    names = {segment.rpartition("/")[2] for segment in read_coco(document).segments.values()}
    stem = document.stem
    folders = (document.with_suffix(""), document.with_suffix("") / stem, root / stem,
               *sorted(root.glob(f"*/{stem}")), *sorted(root.glob(f"panoptic*/*{_year(document)}")),
               *sorted(document.parent.glob(f"*{_year(document)}")))  # fmt: skip
    candidates = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
    held = {f: len(names & {path.name for path in f.glob("*.png")}) for f in candidates}
    return max(candidates, key=lambda f: held[f], default=document.with_suffix(""))


def _listed_segments(root: Path, document: Path, folder: Path, split: str) -> Listing:
    coco = read_coco(document)
    pictures = _pictures(root, document, split)
    listed = pick_described(coco.pictures, pictures, document)
    masks = match(set(coco.segments.values()), find_files(folder, (".png",))).found
    items, problems = [], list(listed.problems)
    for item in listed.items:
        mask = masks.get(coco.segments.get(item.name, ""))
        if mask is None:
            problems.append(Problem("E-DATA-UNLABELLED", "no mask for it", item.image))
        else:
            items.append(item._replace(annotation=mask))
    return Listing(tuple(items), tuple(problems))


def _pictures(
    root: Path,
    document: Path,
    split: str,
    *,
    others: Collection[str] = (),
    conflicting: Collection[str] = (),
) -> Matched:
    """Finds the pictures a file lists (`find_pictures`)."""
    names = read_coco(document).pictures.keys()
    parents = [folder for folder in (root / "images", root, document.parent) if folder.is_dir()]
    own = [
        folder
        for parent in parents
        for folder in sorted(parent.glob("*/"))
        if folder.name == _year(document) or split_name(folder.name) == split
    ]
    if document.parent != root and split_name(document.parent.name) == split:
        own.insert(0, document.parent)
    return find_pictures(names, own, parents, split=split, others=others, conflicting=conflicting)


def _year(document: Path) -> str:
    return document.stem.rpartition("_")[2]  # "val2017"


def _splits(root: Path, documents: Sequence[Path]) -> dict[str, Path]:
    """Returns the split of each file: "val" of instances_val2017.json, unless two would be that."""
    short = {document: _split(document) for document in documents}
    counts = Counter(short.values())
    return {
        name if counts[name] == 1 else _long_name(document, root): document
        for document, name in short.items()
    }


def _split(document: Path) -> str:
    if match := _SPLIT.search(document.stem):
        return split_name(match[1])
    folder = split_name(document.parent.name)
    if folder in SPLITS:
        return folder
    return split_name(_year(document)) if document.name.startswith(_COCO_NAMES) else "all"


def _long_name(document: Path, root: Path) -> str:
    name = document.stem.removeprefix("instances_").lower()
    return name if document.parent in (root, root / "annotations") else document.parent.name


def _of_pixel_maps(path: Path) -> Layout | None:
    for masks in (path / "stuffthingmaps", path / "annotations"):
        splits: dict[str, Callable[[], Listing]] = {
            split_name(match[1]): partial(pair_folders, pictures, folder)
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
