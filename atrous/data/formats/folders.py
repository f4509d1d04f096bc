"""Plain folders of pictures and masks, in common arrangements."""

import logging
import re
from functools import partial
from pathlib import Path

from atrous.data.formats.class_files import find_class_file
from atrous.data.formats.layout import Layout
from atrous.data.formats.mask_classes import classes_of_masks
from atrous.data.formats.pairing import Listing, find_files, pair, split_name
from atrous.data.formats.splits import Splits, divide, listed_pairs, names_masks, split_lists
from atrous.data.masks.files import SUFFIXES
from atrous.errors import listed

LOOKS_FOR = (
    "folders: images/ and masks/ (labels/, annotations/, img_dir/ and ann_dir/ ...), with train/ "
    "and val/ in them, above them or not at all; train/ and train_masks/; x.jpg and x_mask.png or "
    "x.png side by side; train.txt and val.txt with a picture and a mask a line"
)

# Names of folders in lower case, without separators: "Images", "img_dir", "JPEGImages" ...
_IMAGES = (
    "images", "image", "imgs", "img", "imgdir", "imagedir", "imagesdir", "jpegimages", "pngimages",
    "pictures", "photos", "input", "inputs", "original", "originals", "rgb",
)  # fmt: skip
_MASKS = (
    "masks", "mask", "maskdir", "masksdir", "labels", "label", "labeldir", "labelids",
    "annotations", "annotation", "ann", "anns", "anndir", "targets", "target", "gt", "gts",
    "groundtruth", "seg", "segs", "segmentation", "segmentations", "segmentationclass",
    "segmentationclasspng", "segmentationclassraw", "masksmachine",
)  # fmt: skip
_SPLITS = ("train", "val", "test")
_WORDS = (
    "mask", "masks", "label", "labels", "gt", "seg", "segmentation", "annotation", "labelTrainIds",
    "labelIds",
)  # fmt: skip
_ENDINGS = (*(f"{separator}{word}" for word in _WORDS for separator in "_-."), "_L")
_PHOTOGRAPHS = (".jpg", ".jpeg")

Folders = dict[str, tuple[Path, Path]]  # split, or "" if there are none -> pictures, masks
log = logging.getLogger(__name__)


def recognise(path: Path) -> Layout | None:
    """Returns the layout of folders of pictures and masks."""
    splits, masks = _of_lists(path), [path]
    if not splits:
        finders = (_split_outside, _split_inside, _twin_folders, _side_by_side)
        folders = next((folders for find in finders if (folders := find(path))), None)
        if not folders:
            return None
        splits = {split: partial(_listed, *pair) for split, pair in folders.items()}
        if "" in folders:
            splits = divide(splits[""], path)
        masks = [folder for _, folder in folders.values()]
    named = find_class_file(path, *masks, *(folder.parent for folder in masks))
    found = classes_of_masks(named, splits)
    return Layout("folders of pictures and masks", path, found.table, found.reader(), splits)


def _of_lists(path: Path) -> Splits:
    """Returns the splits of lists that name a mask for every picture, wherever the files are."""
    lists = split_lists(path) if path.is_dir() else {}
    return {
        split: partial(listed_pairs, file, path, split)
        for split, file in lists.items()
        if names_masks(file)
    }


def _split_outside(path: Path) -> Folders:
    """Finds train/images/ and train/masks/."""
    return {
        split: folders
        for split, folder in _split_folders(path).items()
        if (folders := _images_and_masks(folder)) is not None
    }


def _split_inside(path: Path) -> Folders:
    """Finds images/train/ and masks/train/, or images/ and masks/ alone."""
    folders = _images_and_masks(path)
    if folders is None:
        return {}
    images, masks = folders
    pictures, labels = _subfolders(images), _subfolders(masks)
    both = {name: (pictures[name], labels[name]) for name in pictures if name in labels}
    if not any(split_name(name) in _SPLITS for name in both):
        return {"": folders}
    left = [p.name for p in images.iterdir() if p.name.lower() not in both and p.name[0] != "."]
    if left:
        log.warning(
            "%s: not in the folder of a split, and left out: %s", images, listed(sorted(left))
        )
    return _named(both)


def _named(folders: Folders) -> Folders:
    """Returns folders by the common names of splits; "valid" stays if there is "val", too."""
    named: Folders = {}
    for name, pair_of_folders in sorted(folders.items()):
        common = split_name(name)
        named[name if common in named else common] = pair_of_folders
    return named


def _subfolders(folder: Path) -> dict[str, Path]:
    return {p.name.lower(): p for p in sorted(folder.glob("*/")) if p.name[0] != "."}


def _split_folders(path: Path) -> dict[str, Path]:
    """Returns the folders that are called like a split."""
    return {
        split_name(name): folder
        for name, folder in _subfolders(path).items()
        if split_name(name) in _SPLITS
    }


def _images_and_masks(path: Path) -> tuple[Path, Path] | None:
    if not path.is_dir():
        return None
    folders = {re.sub(r"[\W_]", "", name): p for name, p in _subfolders(path).items()}
    images = [folders[name] for name in _IMAGES if name in folders]
    masks = [folders[name] for name in _MASKS if name in folders]
    masks = [folder for folder in masks if find_files(folder, SUFFIXES)]
    return (images[0], masks[0]) if images and masks else None


def _twin_folders(path: Path) -> Folders:
    """Finds train/ and train_masks/."""
    folders = _subfolders(path)
    return {
        split: (folder, folders[twin])
        for split, folder in _split_folders(path).items()
        for twin in (f"{folder.name.lower()}{ending.lower()}" for ending in (*_ENDINGS, "annot"))
        if twin in folders
    }


def _side_by_side(path: Path) -> Folders:
    """Finds pictures and masks in the same folder, or in a folder for each split."""
    splits = {
        s: (folder, folder) for s, folder in _split_folders(path).items() if _has_both(folder)
    }
    return splits or ({"": (path, path)} if _has_both(path) else {})


def _has_both(folder: Path) -> bool:
    return folder.is_dir() and bool(_together(folder).items)


def _listed(pictures: Path, masks: Path) -> Listing:
    if pictures == masks:
        return _together(pictures)
    images, targets = find_files(pictures), find_files(masks, SUFFIXES)
    taken_away = "_leftImg8bit" if any("_leftImg8bit." in name for name in images) else ""
    best, stems = Listing(()), [path.stem for path in targets.values()]
    for ending in ("", *(e for e in _ENDINGS if any(stem.endswith(e) for stem in stems))):
        found = pair(images, targets, picture_ending=taken_away, mask_ending=ending)
        if len(found.items) > len(best.items) or not ending:
            best = found
    return best


def _together(folder: Path) -> Listing:
    """Pairs the pictures and masks of a folder: by ending, or JPEG and PNG of the same name."""
    found, candidates = find_files(folder), find_files(folder, SUFFIXES)
    for ending in _ENDINGS:
        masks = {n: p for n, p in candidates.items() if p.stem.endswith(ending)}
        if masks:
            pictures = {name: path for name, path in found.items() if name not in masks}
            return pair(pictures, masks, mask_ending=ending)
    return pair(find_files(folder, _PHOTOGRAPHS), find_files(folder, (".png",)))
