"""Plain folders of pictures and masks, in the ways people lay them out."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from atrous.classes import IGNORE_INDEX, numbered
from atrous.data.formats.class_files import ClassFile, find_class_file
from atrous.data.formats.layout import (
    Found,
    Layout,
    Listing,
    find_files,
    pair,
    split_by_name,
    split_name,
)
from atrous.data.masks.files import SUFFIXES, read_mask
from atrous.data.masks.targets import MaskReader
from atrous.errors import AtrousError

LOOKS_FOR = (
    "folders: images/ and masks/ (labels/, annotations/, ...), with train/ and val/ in them, above "
    "them or not at all; train/ and train_masks/; x.jpg and x_mask.png or x.png side by side"
)

_IMAGES = ("images", "image", "imgs", "img", "pictures")
_MASKS = ("masks", "mask", "labels", "label", "annotations", "ann", "targets", "gt", "seg")
_SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
_ENDINGS = ("_mask", "_masks", "_label", "_labels", "_gt", "_seg", "_L")
_PHOTOGRAPHS = (".jpg", ".jpeg")

Splits = dict[str, Callable[[], Listing]]
log = logging.getLogger(__name__)


def recognise(path: Path) -> Layout | None:
    """Returns the layout of folders of pictures and masks."""
    for find in (_split_outside, _split_inside, _twin_folders, _side_by_side):
        folders = find(path)
        splits: Splits = {
            split_name(split): partial(_listed, *pictures_and_masks)
            for split, pictures_and_masks in folders.items()
        }
        if "" in splits:
            splits = split_by_name(splits[""])
        if splits:
            break
    else:
        return None
    masks = [masks for _, masks in folders.values()]
    found = find_class_file(path, *masks, *(folder.parent for folder in masks))
    if found is None:
        found = ClassFile(numbered(_count_classes(splits)))
    reader = MaskReader(len(found.table.classes), found.mapping, found.colors)
    return Layout("folders of pictures and masks", path, found.table, reader, splits)


Folders = dict[str, tuple[Path, Path]]  # split, or "" if there are none -> pictures, masks


def _split_outside(path: Path) -> Folders:
    """Finds train/images/ and train/masks/."""
    return {
        split: folders
        for split in _SPLITS
        if (folders := _images_and_masks(path / split)) is not None
    }


def _split_inside(path: Path) -> Folders:
    """Finds images/train/ and masks/train/, or images/ and masks/ alone."""
    folders = _images_and_masks(path)
    if folders is None:
        return {}
    images, masks = folders
    inside = {
        split: (images / split, masks / split)
        for split in _SPLITS
        if (images / split).is_dir() and (masks / split).is_dir()
    }
    return inside or {"": folders}


def _images_and_masks(path: Path) -> tuple[Path, Path] | None:
    images = [path / name for name in _IMAGES if (path / name).is_dir()]
    masks = [path / name for name in _MASKS if (path / name).is_dir()]
    masks = [folder for folder in masks if find_files(folder, SUFFIXES).files]
    return (images[0], masks[0]) if images and masks else None


def _twin_folders(path: Path) -> Folders:
    """Finds train/ and train_masks/."""
    return {
        split: (path / split, twin)
        for split in _SPLITS
        for twin in (path / f"{split}{ending}" for ending in (*_ENDINGS, "annot"))
        if (path / split).is_dir() and twin.is_dir()
    }


def _side_by_side(path: Path) -> Folders:
    """Finds pictures and masks in one folder, or in one for each split."""
    splits = {s: (path / s, path / s) for s in _SPLITS if _has_both(path / s)}
    return splits or ({"": (path, path)} if _has_both(path) else {})


def _has_both(folder: Path) -> bool:
    return folder.is_dir() and bool(_together(folder).items)


def _listed(pictures: Path, masks: Path) -> Listing:
    if pictures == masks:
        return _together(pictures)
    images = find_files(pictures)
    candidates = [find_files(masks, SUFFIXES, ending=ending) for ending in ("", *_ENDINGS)]
    best = max(candidates, key=lambda found: len(images.files.keys() & found.files.keys()))
    return pair(images, best)


def _together(folder: Path) -> Listing:
    """Pairs the pictures and masks of one folder: by ending, or JPEG and PNG of one name."""
    for ending in _ENDINGS:
        masks = find_files(folder, SUFFIXES, ending=ending)
        if masks.files:
            others = set(masks.files.values())
            found = find_files(folder)
            pictures = {key: path for key, path in found.files.items() if path not in others}
            return pair(Found(pictures, found.problems), masks)
    return pair(find_files(folder, _PHOTOGRAPHS), find_files(folder, (".png",)))


def _count_classes(splits: Splits) -> int:
    """Returns one more than the largest label of all masks that can be read."""
    paths = {item.annotation for listing in splits.values() for item in listing().items}
    log.warning("no class names found: reading %d masks to count the classes", len(paths))
    with ThreadPoolExecutor() as pool:
        return 1 + max(pool.map(_largest_label, sorted(filter(None, paths))), default=0)


def _largest_label(path: Path) -> int:
    try:
        labels = read_mask(path).labels
    except AtrousError:
        return 0  # whoever reads this mask hears what is wrong with it
    return int(labels.max(initial=0, where=labels != IGNORE_INDEX))
