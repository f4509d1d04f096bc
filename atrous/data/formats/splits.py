"""Splits of a data set without folders for its splits: from lists of names, or by hashing names."""

import logging
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from atrous.data.dataset import Item, stem
from atrous.data.formats.pairing import (
    Listing,
    Problem,
    find_files,
    match,
    missing,
    read_list,
    relative,
    split_name,
)
from atrous.data.masks.files import SUFFIXES as MASK_SUFFIXES
from atrous.data.splitting import held_out

Splits = Mapping[str, Callable[[], Listing]]

VAL_PART = 5  # without a given split, one picture of so many is val

_FOLDERS = ("", "splits", "split", "lists", "list", "ImageSets/Segmentation", "ImageSets")
_LIST = re.compile(
    r"(train|training|trainval|train_?aug|val|valid|validation|test|testing)"
    r"(_?(list|files?|set|images?|split))?\.txt",
    re.IGNORECASE,
)
_LOOKS_LIKE_LIST = re.compile(r".*(train|val|test).*\.(txt|csv|lst|tsv)", re.IGNORECASE)
_PICTURE = r"\S.*?\.(?:jpe?g|png|tiff?|bmp|webp|gif)"
_COLUMNS = re.compile(rf"({_PICTURE})(?:\s*[,;\t]\s*|\s+)({_PICTURE})", re.IGNORECASE)

log = logging.getLogger(__name__)


def divide(everything: Callable[[], Listing], root: Path) -> Splits:
    """Returns the splits of a data set that keeps all pictures in one place.

    Lists such as ``train.txt`` and ``val_list.txt`` in or below `root` are followed. Without
    lists, a fifth of the samples is val. The names decide, so that all machines agree.
    """
    by_list: dict[str, Callable[[], Listing]] = {
        split: partial(_of_list, path, everything, root, split)
        for split, path in split_lists(root).items()
    }
    parts = {"train": partial(_part, everything, False), "val": partial(_part, everything, True)}
    return {**(by_list or parts), "all": everything}


def split_lists(root: Path) -> dict[str, Path]:
    """Returns the lists of pictures in a folder, by split; warns of files it cannot use."""
    for folder in (root / name for name in _FOLDERS):
        files = sorted(path for path in folder.glob("*") if path.is_file())
        lists = {
            split_name(match[1]): path for path in files if (match := _LIST.fullmatch(path.name))
        }
        others = [path.name for path in files if path not in lists.values()]
        unused = [name for name in others if _LOOKS_LIKE_LIST.match(name)]
        if unused:
            log.warning(
                "%s: these look like lists of a split and are not used: %s (expected: train.txt, "
                "val.txt, train_list.txt ...)",
                folder,
                ", ".join(unused[:10]),
            )
        if lists:
            return lists
    return {}


def columns(path: Path) -> list[tuple[str, str]]:
    """Returns the picture and the mask of each line of a list; "" for a mask it does not name."""
    rows = []
    for line in read_list(path):
        both = _COLUMNS.fullmatch(line)
        rows.append((both[1], both[2]) if both else (line, ""))
    return rows


def names_masks(path: Path) -> bool:
    """Returns whether a list has a second column of masks."""
    return any(mask for _, mask in columns(path)[:10])


def _of_list(path: Path, everything: Callable[[], Listing], root: Path, split: str) -> Listing:
    """Returns the samples that a list names, and the problems of the pictures it names."""
    if names_masks(path):
        return listed_pairs(path, root, split)
    items, problems = everything()
    by_image = {item.image: item for item in items}
    by_file = {problem.where: problem for problem in problems}
    files: dict[str, Any] = {relative(file, root): file for file in (*by_image, *by_file)}
    names = dict.fromkeys(name for name, _ in columns(path))
    matched = match(names, files)
    found = matched.found
    chosen = [by_image[file] for file in found.values() if file in by_image]
    own = [by_file[file] for file in found.values() if file in by_file]
    return Listing(tuple(chosen), (*own, *missing(names, matched, path)))


def listed_pairs(path: Path, root: Path, split: str) -> Listing:
    """Returns the samples of a list with a column of pictures and a column of masks."""
    rows = list(dict.fromkeys(columns(path)))
    files, masks = find_files(root), find_files(root, MASK_SUFFIXES)
    pictures = match(dict.fromkeys(name for name, _ in rows), files)
    annotations = match(dict.fromkeys(mask for _, mask in rows if mask), masks)
    items, problems = [], []
    for name, mask in rows:
        if name in pictures.unclear or mask in annotations.unclear:
            what = f"{name} {mask}: a name that could be several files"
            problems.append(Problem("E-DATA-TWICE", what, path))
        elif name not in pictures.found:
            problems.append(Problem("E-DATA-NO-PICTURE", f"no picture {name}", path))
        elif mask not in annotations.found:
            what = f"no mask {mask}" if mask else "the list names no mask for it"
            problems.append(Problem("E-DATA-UNLABELLED", what, pictures.found[name]))
        else:
            items.append(Item(stem(name), pictures.found[name], annotations.found[mask]))
    return Listing(tuple(items), tuple(problems))


def _part(everything: Callable[[], Listing], val: bool) -> Listing:
    """Returns the samples whose names make them val, or the other samples."""
    items, problems = everything()
    # Suffixes are left out, so that a picture keeps its split when its format changes.
    ordered = sorted(items, key=lambda item: (item.name, item.image))
    names = [stem(PurePosixPath(item.name).as_posix()) for item in ordered]
    count = -(-len(items) // VAL_PART)
    chosen = {ordered[index].image for index in held_out(names, count)}
    return Listing(tuple(i for i in items if (i.image in chosen) == val), problems)
