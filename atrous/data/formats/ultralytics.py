"""Folders described by a dataset YAML: masks or outlines beside pictures, folder for folder.

With masks_dir targets are mask files, in a folder of that name in the place of ``images``. Without
it they are the outlines of ``labels``, smaller ones on top, as ultralytics trains them: a class
"background" is added, after several classes or before a single one.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from atrous.data.dataset import Item
from atrous.data.formats.dataset_yaml import DatasetYaml, read_dataset_yaml
from atrous.data.formats.documents import invalid
from atrous.data.formats.layout import (
    Found,
    Layout,
    Listing,
    class_table,
    find_files,
    pair,
    read_list,
)
from atrous.data.masks.files import SUFFIXES
from atrous.data.masks.shapes import Shape
from atrous.data.masks.targets import MaskReader, ShapeReader

LOOKS_FOR = "dataset YAML: a .yaml file with names and train or val, or data.yaml in the folder"

_OUTLINES = (".txt",)
_FOLDER_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


def recognise(path: Path) -> Layout | None:
    """Returns the layout a YAML file describes, itself or in its folder."""
    if path.is_dir():
        found = [path / name for name in _FOLDER_NAMES if (path / name).is_file()]
        return _layout(read_dataset_yaml(found[0])) if found else None
    if path.suffix.lower() not in (".yaml", ".yml"):
        return None
    return _layout(read_dataset_yaml(path))


def _layout(content: DatasetYaml) -> Layout:
    masks = content.masks_dir
    listed = partial(_listed, content.root, masks or "labels", SUFFIXES if masks else _OUTLINES)
    splits: dict[str, Callable[[], Listing]] = {
        split: partial(listed, sources) for split, sources in content.splits.items()
    }
    if masks:
        table = class_table("yaml", content.names, content.palette, where=content.path)
        reader = MaskReader(len(table.classes), content.mapping, content.colors)
        return Layout("dataset YAML, masks", content.path, table, reader, splits)
    single = len(content.names) == 1
    names = ("background", *content.names) if single else (*content.names, "background")
    table = class_table("yaml", names, where=content.path)
    shapes = YoloShapes(len(content.names), first=int(single))
    background = names.index("background")
    reader_of_shapes = ShapeReader(shapes, len(names), background, "area")
    return Layout("dataset YAML, outlines", content.path, table, reader_of_shapes, splits)


def _listed(root: Path, folder: str, suffixes: Sequence[str], sources: Sequence[Path]) -> Listing:
    listings = [
        _of_list(source, root, folder, suffixes)
        if source.is_file()
        else _of_folder(source, root, folder, suffixes)
        for source in sources
    ]
    top = f"{root}{os.sep}"
    items = (item for listing in listings for item in listing.items)
    named = (  # by path: several sources may have pictures of one name
        item._replace(name=os.path.splitext(str(item.image).removeprefix(top))[0])  # noqa: PTH122
        for item in items
    )
    return Listing(
        tuple(named), tuple(problem for listing in listings for problem in listing.problems)
    )


def _of_folder(source: Path, root: Path, folder: str, suffixes: Sequence[str]) -> Listing:
    return pair(find_files(source), find_files(_twin(source, root, folder), suffixes))


def _of_list(source: Path, root: Path, folder: str, suffixes: Sequence[str]) -> Listing:
    """Pairs the pictures a text file lists, relative to it or to the data set."""
    pictures: dict[str, Path] = {}
    annotations: dict[str, Path] = {}
    for line in read_list(source):
        beside = source.parent / line
        path = beside if beside.exists() else root / line
        key = path.with_suffix("").as_posix()
        pictures[key] = path
        twin = _twin(path.parent, root, folder)
        found = (twin / f"{path.stem}{suffix}" for suffix in suffixes)
        if annotation := next(filter(Path.is_file, found), None):
            annotations[key] = annotation
    return pair(Found(pictures, ()), Found(annotations, ()))


def _twin(source: Path, root: Path, folder: str) -> Path:
    """Returns the folder of annotations: `folder` in the place of the last ``images``."""
    parts = source.parts
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        return Path(*parts[:last], folder, *parts[last + 1 :])
    if source.is_relative_to(root):
        return root / folder / source.relative_to(root)
    return source.parent / folder / source.name


@dataclass(frozen=True)
class YoloShapes:
    """Reads ``class x1 y1 x2 y2 ...`` lines, with x and y as shares of width and height.

    Args:
        num_names: Number of classes the files know, 0 to num_names - 1.
        first: Class index of their class 0.
    """

    num_names: int
    first: int = 0

    def __call__(self, item: Item, size: tuple[int, int]) -> list[Shape]:
        """Returns the shapes of an item whose picture has (height, width)."""
        where = item.annotation
        assert where is not None
        try:
            lines = read_list(where)
        except OSError as error:
            raise invalid(f"cannot be read: {error.strerror}", where) from None
        return [self._shape(line, number, size, where) for number, line in enumerate(lines, 1)]

    def _shape(self, line: str, number: int, size: tuple[int, int], where: Path) -> Shape:
        name = f"line {number}"
        try:
            values = np.array(line.split(), dtype=np.float64)
        except ValueError:
            raise invalid(f"{name} holds something other than numbers", where) from None
        if values[0] not in range(self.num_names):
            known = f"names has {self.num_names} classes"
            raise invalid(f"{name}: class {values[0]:g}, and {known}", where, "correct names or it")
        if len(values) == 5:
            raise invalid(f"{name} is a box (x, y, width, height), not an outline", where)
        if len(values) % 2 == 0:
            raise invalid(f"{name} has an x without a y", where)
        outline = values[1:].reshape(-1, 2) * (size[1], size[0])
        return Shape(self.first + int(values[0]), (outline,), where=name)
