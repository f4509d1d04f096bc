"""Folders described by a dataset YAML: masks or outlines beside pictures, folder for folder.

With masks_dir, targets are mask files: the folder of that name takes the place of ``images``.
Without masks_dir, targets are drawn from the outlines in ``labels``, smaller outlines on top. As
in ultralytics, a class "background" is added, after several classes or before a single class.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from atrous.data.dataset import Item, ReadTarget, stem
from atrous.data.formats.class_files import ClassFile
from atrous.data.formats.dataset_yaml import DatasetYaml, read_dataset_yaml
from atrous.data.formats.documents import invalid
from atrous.data.formats.layout import Layout, class_table, shape_classes
from atrous.data.formats.mask_classes import classes_of_masks
from atrous.data.formats.pairing import (
    Files,
    Listing,
    find_files,
    match,
    missing,
    pair,
    read_list,
    relative,
)
from atrous.data.masks.files import SUFFIXES
from atrous.data.masks.shapes import Shape
from atrous.data.masks.targets import ShapeReader
from atrous.images.bands import Bands

LOOKS_FOR = "dataset YAML: a .yaml file with names and train or val, or data.yaml in the folder"

_OUTLINES = (".txt",)
_FOLDER_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


def recognise(path: Path) -> Layout | None:
    """Returns the layout a YAML file describes, itself or in its folder."""
    files = [path / name for name in _FOLDER_NAMES] if path.is_dir() else [path]
    found = [file for file in files if file.suffix.lower() in (".yaml", ".yml") and file.is_file()]
    return _layout(read_dataset_yaml(found[0])) if found else None


def _layout(content: DatasetYaml) -> Layout:
    masks = content.masks_dir
    listed = partial(_listed, content, masks or "labels", SUFFIXES if masks else _OUTLINES)
    splits: dict[str, Callable[[], Listing]] = {
        split: partial(listed, split) for split in content.splits
    }
    reader: ReadTarget
    if masks:
        table = class_table("yaml", content.names, content.palette, where=content.path)
        found = ClassFile(table, content.mapping, content.colors)
        if len(content.names) <= 2 and not content.mapping:
            present = {name: lister for name, lister in splits.items() if content.is_present(name)}
            found = classes_of_masks(found, present)
        kind, table, reader = "masks", found.table, found.reader()
    else:
        # ultralytics adds "background" after several classes, but before a single class.
        single = len(content.names) == 1
        given = [*["background"] * single, *content.names, *["background"] * (not single)]
        names, index = shape_classes(given)
        values = tuple(index[name] for name in content.names)
        shapes = partial(_shapes, values=values)
        kind, table = "outlines", class_table("yaml", names, where=content.path)
        reader = ShapeReader(shapes, len(names), index["background"], "area")
    kind = f"dataset YAML, {kind}"
    return Layout(kind, content.path, table, reader, splits, content.root, content.bands)


def _listed(content: DatasetYaml, folder: str, suffixes: Sequence[str], split: str) -> Listing:
    root, ending = content.root, _ending(content.bands)
    listings = [
        _of_list(source, root, folder, suffixes)
        if source.is_file()
        else _of_folder(source, _twin(source, root, folder), suffixes, ending)
        for source in content.sources(split)
    ]
    items = (  # named by path: several sources may have pictures of one name
        item._replace(name=stem(relative(item.image, root)))
        for listing in listings
        for item in listing.items
    )
    problems = (problem for listing in listings for problem in listing.problems)
    return Listing(tuple(items), tuple(problems))


def _ending(bands: Bands | None) -> str:
    """Returns how the names of pictures end whose channels are in several files."""
    first = bands.sources[0] if bands and bands.sources else ""
    return first.removeprefix("{stem}") if first.startswith("{stem}") else ""


def _of_folder(source: Path, masks: Path, suffixes: Sequence[str], ending: str) -> Listing:
    pictures = {name: path for name, path in find_files(source).items() if name.endswith(ending)}
    return pair(pictures, find_files(masks, suffixes), picture_ending=stem(ending))


def _of_list(source: Path, root: Path, folder: str, suffixes: Sequence[str]) -> Listing:
    """Pairs the pictures a text file lists, relative to the file or to the data set."""
    names = list(dict.fromkeys(read_list(source)))
    found = {name: path for name in names if (path := _existing(name, source.parent, root))}
    others = match([name for name in names if name not in found], find_files(root))
    matched = others._replace(found=found | others.found)
    paths = dict.fromkeys(matched.found[name] for name in names if name in matched.found)
    pictures = {relative(path, root): path for path in paths}
    annotations: Files = {}
    for path in paths:
        twin = _twin(path.parent, root, folder)
        for suffix in suffixes:
            for file in (twin / f"{path.stem}{suffix}", twin / f"{path.name}{suffix}"):
                if file.is_file():
                    name = f"{path.name if file.stem == path.name else path.stem}{suffix}"
                    annotations[relative(path.parent / name, root)] = file
    listing = pair(pictures, annotations, report_unused=False)
    return Listing(listing.items, (*listing.problems, *missing(names, matched, source)))


def _existing(name: str, *folders: Path) -> Path | None:
    paths = (Path(os.path.normpath(folder / name)) for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def _twin(source: Path, root: Path, folder: str) -> Path:
    """Returns the folder of annotations: `folder` in the place of the last ``images``."""
    parts = source.parts
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        return Path(*parts[:last], folder, *parts[last + 1 :])
    if source.is_relative_to(root):
        return root / folder / source.relative_to(root)
    return source.parent / folder / source.name


def _shapes(item: Item, size: tuple[int, int], *, values: Sequence[int]) -> list[Shape]:
    """Reads ``class x1 y1 x2 y2 ...`` lines, with x and y as shares of width and height.

    Args:
        item: The item.
        size: Height and width of its picture.
        values: Value in the target of each class that the files know, from 0.
    """
    try:
        lines = read_list(item.file)
    except OSError as error:
        raise invalid(f"cannot be read: {error.strerror}", item.file) from None
    return [_shape(line, f"line {i}", size, item.file, values) for i, line in enumerate(lines, 1)]


def _shape(
    line: str, name: str, size: tuple[int, int], where: Path, values: Sequence[int]
) -> Shape:
    try:
        numbers = np.array(line.split(), dtype=np.float64)
    except ValueError:
        raise invalid(f"{name} holds something other than numbers", where) from None
    if numbers[0] not in range(len(values)):
        known = f"names has {len(values)} classes"
        raise invalid(f"{name}: class {numbers[0]:g}, and {known}", where, "correct names or it")
    if len(numbers) == 5:
        raise invalid(f"{name} is a box (x, y, width, height), not an outline", where)
    if len(numbers) % 2 == 0:
        raise invalid(f"{name} has an x without a y", where)
    outline = numbers[1:].reshape(-1, 2) * (size[1], size[0])
    return Shape(values[int(numbers[0])], (outline,), where=name)
