"""CamVid as in SegNet's tutorial: a folder of pictures and a folder of masks for each split."""

from functools import partial
from pathlib import Path

from atrous.classes import CAMVID
from atrous.data.formats.class_files import ClassFile, find_class_file
from atrous.data.formats.layout import Layout
from atrous.data.formats.mask_classes import classes_of_masks
from atrous.data.formats.pairing import Listing, find_files, pair, pick_masks
from atrous.data.formats.splits import columns
from atrous.data.masks.colors import color_table
from atrous.data.masks.files import SUFFIXES

LOOKS_FOR = "CamVid: train/ and trainannot/, val/ and valannot/"


def recognise(path: Path) -> Layout | None:
    """Returns the layout of CamVid, or of other classes if there is a class file."""
    splits = {
        split: partial(_listed, path / f"{split}.txt", path / split, path / f"{split}annot")
        for split in ("train", "val", "test")
        if (path / split).is_dir() and (path / f"{split}annot").is_dir()
    }
    if not splits:
        return None
    void = len(CAMVID.classes)
    named = find_class_file(path)
    found = (
        classes_of_masks(named, splits)
        if named
        else ClassFile(CAMVID, {void: None}, color_table((*CAMVID.palette, (0, 0, 0))))
    )
    return Layout("CamVid (SegNet)", path, found.table, found.reader(), splits)


def _listed(names: Path, pictures: Path, masks: Path) -> Listing:
    images, annotations = find_files(pictures), find_files(masks, SUFFIXES)
    if not names.is_file():
        return pair(images, annotations)
    # SegNet's lists name picture and mask by paths of the authors' machine.
    return pick_masks([picture for picture, _ in columns(names)], images, annotations, names)
