"""ADE20K, the scene parsing benchmark: 150 classes counted from 1, and 0 for other pixels.

Zhou et al., Scene Parsing through ADE20K Dataset. Two conventions are in use. Most code trains the
150 classes, with 0 unlabelled. The authors of DeepLab train 151 classes: indices equal the values
in the masks, and 0 is unlabelled, too. MLCommons' mobile model has class 0 and the first 31.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from atrous.classes import ADE20K, ADE20K_31, ADE20K_151
from atrous.data.formats.layout import Layout
from atrous.data.formats.pairing import pair_folders
from atrous.data.masks.targets import MaskReader

LOOKS_FOR = "ADE20K: images/training/, images/validation/ and annotations/ likewise"

_SPLITS = {"train": "training", "val": "validation"}
_K = len(ADE20K.classes)


def recognise(path: Path) -> Layout | None:
    """Returns the layout of the benchmark, with its 150 classes."""
    for root in (path, path / "ADEChallengeData2016"):
        splits = {
            split: partial(pair_folders, root / "images" / folder, root / "annotations" / folder)
            for split, folder in _SPLITS.items()
            if (root / "images" / folder).is_dir() and (root / "annotations" / folder).is_dir()
        }
        if splits:
            mapping: dict[int, int | None] = {0: None} | {i: i - 1 for i in range(1, _K + 1)}
            return Layout("ADE20K", root, ADE20K, MaskReader(_K, mapping), splits)
    return None


def with_classes(layout: Layout, num_classes: int) -> Layout | None:
    """Returns the layout with 150, 151 or 32 classes; None for another number."""
    if num_classes == len(ADE20K_151.classes):
        return replace(layout, table=ADE20K_151, read_target=MaskReader(num_classes, {0: None}))
    if num_classes == len(ADE20K_31.classes):
        mapping: dict[int, int | None] = dict.fromkeys(range(num_classes, _K + 1), 0)
        mapping |= {i: i for i in range(num_classes)}
        return replace(layout, table=ADE20K_31, read_target=MaskReader(num_classes, mapping))
    return layout if num_classes == _K else None
