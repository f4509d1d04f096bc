"""PASCAL VOC devkits, and the 10,582 training pictures made from VOC and SBD together.

Everingham et al., The PASCAL Visual Object Classes Challenge. Hariharan et al., Semantic Contours
from Inverse Detectors (SBD): 11,355 pictures of VOC 2011 with outlines in MATLAB files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from atrous.classes import VOC, Color
from atrous.data.dataset import Item, Target
from atrous.data.formats.class_files import ClassFile, find_class_file
from atrous.data.formats.layout import Layout
from atrous.data.formats.mask_classes import classes_of_masks
from atrous.data.formats.pairing import (
    SPLITS,
    Files,
    Listing,
    find_files,
    pair,
    pick_masks,
    read_list,
    split_name,
)
from atrous.data.formats.splits import divide, listed_pairs, names_masks
from atrous.data.masks.colors import color_table
from atrous.data.masks.files import SUFFIXES
from atrous.data.masks.targets import MaskReader
from atrous.errors import DataError, needing

LOOKS_FOR = "VOC: JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/*.txt or a class file"
LOOKS_FOR_SBD = "SBD: img/, cls/*.mat, train.txt and val.txt"

_ANNOTATIONS = (*SUFFIXES, ".mat")
TRAINAUG = 10_582  # VOC train and SBD, without VOC val
_VOID: Color = (224, 224, 192)  # unlabelled, in masks stored in colour
_SBD_FOLDERS = ("SBD", "sbd", "benchmark_RELEASE/dataset", "SBD/dataset", "sbd/dataset")


@dataclass(frozen=True)
class VocReader(MaskReader):
    """Reads masks, and SBD's MATLAB files as masks."""

    def __call__(self, item: Item, size: tuple[int, int]) -> Target:
        """Returns the target (H, W) of an item."""
        if item.file.suffix == ".mat":
            return read_sbd(item.file)
        return super().__call__(item, size)


def recognise(path: Path) -> Layout | None:
    """Returns the layout of a devkit, from the folder of its year or the VOCdevkit folder above."""
    for root in (path, *sorted(path.glob("VOC20*")), *sorted(path.glob("VOCdevkit/VOC20*"))):
        if (root / "JPEGImages").is_dir() and _mask_folders(root):
            lists = root / "ImageSets" / "Segmentation"
            if lists.is_dir() or find_class_file(root):  # labelme2voc writes no lists
                return _layout(root, lists)
    return None


def recognise_sbd(path: Path) -> Layout | None:
    """Returns the layout of SBD alone."""
    for root in (path, path / "dataset", path / "benchmark_RELEASE" / "dataset"):
        if _is_sbd(root) and (root / "img").is_dir():
            splits = {
                split: partial(_listed, root / f"{split}.txt", root, "img", (root / "cls",), split)
                for split in ("train", "val")
            }
            return Layout("SBD", root, VOC, VocReader(len(VOC.classes)), splits)
    return None


def _is_sbd(root: Path) -> bool:
    return all((root / name).exists() for name in ("cls", "train.txt", "val.txt"))


def _mask_folders(root: Path) -> list[Path]:
    # LabelMe's older converter puts arrays into SegmentationClass and masks beside it.
    names = ("SegmentationClass", "SegmentationClassPNG", "SegmentationClassAug")
    return [
        root / name
        for name in names
        if any(path.suffix.lower() in _ANNOTATIONS for path in (root / name).glob("*"))
    ]


def _layout(root: Path, lists: Path) -> Layout:
    folders = _mask_folders(root)
    splits: dict[str, Callable[[], Listing]] = {}
    for path in sorted(lists.glob("*.txt")):
        split = split_name(path.stem)
        # SegmentationClassAug has the masks of all of trainaug.
        order = folders[::-1] if split == "trainaug" else folders
        splits[split] = partial(_listed, path, root, "JPEGImages", tuple(order), split)
    sbd = find_sbd(root)
    if sbd is not None and "trainaug" not in splits and "train" in splits:
        splits["trainaug"] = partial(trainaug, root, sbd)
    if not splits.keys() & set(SPLITS):  # CVAT exports a single list, called default
        everything = next(iter(splits.values()), partial(_everything, root, tuple(folders)))
        splits = {**divide(everything, root), **splits}
    found = find_class_file(root)
    if found is None:
        void = color_table((*VOC.palette, _VOID))
        found = ClassFile(VOC, {len(VOC.classes): None}, void)
    else:
        found = classes_of_masks(found, splits)
    reader = VocReader(len(found.table.classes), found.mapping, found.colors)
    return Layout("PASCAL VOC devkit", root, found.table, reader, splits)


def _listed(names: Path, root: Path, pictures: str, folders: Sequence[Path], split: str) -> Listing:
    if names_masks(names):
        return listed_pairs(names, root, split)
    return pick_masks(read_list(names), find_files(root / pictures), _masks(folders), names)


def _everything(root: Path, folders: Sequence[Path]) -> Listing:
    return pair(find_files(root / "JPEGImages"), _masks(folders))


def _masks(folders: Sequence[Path]) -> Files:
    """Returns the masks of several folders. The first folder with a mask of a picture counts."""
    masks: Files = {}
    for folder in folders:
        known = {Path(name).with_suffix("") for name in masks}
        found = find_files(folder, _ANNOTATIONS).items()
        masks |= {name: p for name, p in found if Path(name).with_suffix("") not in known}
    return masks


def find_sbd(root: Path) -> Path | None:
    """Returns SBD's folder, if it lies in a devkit or beside a devkit."""
    for parent in (root, root.parent, root.parent.parent):
        for name in _SBD_FOLDERS:
            if _is_sbd(parent / name):
                return parent / name
    return None


def trainaug(root: Path, sbd: Path, *, expected: int = TRAINAUG) -> Listing:
    """Lists VOC train and all of SBD, without VOC val. VOC's own masks are preferred.

    Args:
        root: The folder of a year in a devkit.
        sbd: SBD's folder, with cls/, train.txt and val.txt.
        expected: The required number of samples.

    Raises:
        AtrousError: The number differs: a list is not the original, or is cut off.
    """
    lists = root / "ImageSets" / "Segmentation"
    train, val = read_list(lists / "train.txt"), set(read_list(lists / "val.txt"))
    theirs = [*read_list(sbd / "train.txt"), *read_list(sbd / "val.txt")]
    names = sorted({*train, *theirs} - val)
    if len(names) != expected:
        raise DataError(
            "E-DATA-TRAINAUG",
            f"VOC train ({len(train)}) and SBD ({len(theirs)}) without VOC val ({len(val)}) are "
            f"{len(names)} pictures, not {expected}",
            where=f"{lists}, {sbd}",
            fix="the original lists have 1464, 8498 + 2857 and 1449 lines; copy them again, or "
            "write the list you want to ImageSets/Segmentation/trainaug.txt",
        )
    known = set(train)
    ours = find_files(root / "SegmentationClass", SUFFIXES)
    ours = {name: path for name, path in ours.items() if path.stem in known}
    drawn = {path.stem for path in ours.values()}
    theirs_drawn = find_files(sbd / "cls", (".mat",))
    masks = ours | {name: p for name, p in theirs_drawn.items() if p.stem not in drawn}
    pictures = find_files(sbd / "img") | find_files(root / "JPEGImages")
    return pick_masks(names, pictures, masks, lists)


def read_sbd(path: Path) -> Target:
    """Reads the classes (H, W) from one of SBD's MATLAB files.

    Raises:
        AtrousError: Not such a file.
    """
    with needing("reading SBD", "data"):
        # MATLAB files are nested, compressed records. SciPy maintains a reader for them and, unlike
        # pickle, the reader runs no code from the file.
        from scipy import io
    try:
        content = io.loadmat(path, variable_names=["GTcls"])
        classes = np.asarray(content["GTcls"]["Segmentation"][0, 0])
        if classes.ndim == 2 and classes.dtype == np.uint8:
            return classes
        problem = f"GTcls.Segmentation is {classes.dtype} {classes.shape}"
    except Exception as error:  # for a damaged file, SciPy's reader raises exceptions of any type
        problem = f"{type(error).__name__}: {error}"
    raise DataError(
        "E-DATA-SBD",
        f"GTcls.Segmentation cannot be read ({problem})",
        where=path,
        fix="the file is damaged or not SBD's; copy it again",
    )
