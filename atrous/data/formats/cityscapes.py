"""Cityscapes: from raw ids in its masks to train ids, and back for submissions.

Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding (arXiv:1604.01685).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atrous.classes import CITYSCAPES, CITYSCAPES_LABELS
from atrous.data.formats.layout import Layout
from atrous.data.formats.pairing import Listing, pair_folders
from atrous.data.masks.targets import MaskReader

LOOKS_FOR = "Cityscapes: leftImg8bit/SPLIT/CITY/ and gtFine/ or gtCoarse/ with *_labelIds.png"

_RAW_IDS = 34  # 0..33; the licence plate, -1, is drawn in no mask

MAPPING: dict[int, int | None] = dict.fromkeys(range(_RAW_IDS)) | {
    label.raw_id: train_id for train_id, label in enumerate(CITYSCAPES_LABELS)
}


def recognise(path: Path) -> Layout | None:
    """Returns the layout of Cityscapes. Fine splits keep their names; coarse are NAME_coarse."""
    pictures = path / "leftImg8bit"
    if not pictures.is_dir():
        return None
    splits: dict[str, Callable[[], Listing]] = {}
    kinds = set()
    for folder in sorted(path.glob("gt*/*")):
        quality, split = folder.parent.name, folder.name
        if quality not in ("gtFine", "gtCoarse") or not (pictures / split).is_dir():
            continue
        raw = any(folder.rglob(f"*_{quality}_labelIds.png"))
        kind = "labelIds" if raw else "labelTrainIds"
        kinds.add(kind)
        name = split if quality == "gtFine" or split == "train_extra" else f"{split}_coarse"
        splits[name] = partial(
            pair_folders, pictures / split, folder,
            picture_ending="_leftImg8bit", mask_ending=f"_{quality}_{kind}",
        )  # fmt: skip
    if not splits:
        return None
    mapping = MAPPING if "labelIds" in kinds else {}
    return Layout(
        "Cityscapes", path, CITYSCAPES, MaskReader(len(CITYSCAPES_LABELS), mapping), splits
    )


def submission(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns predicted train ids (H, W) as the raw ids the benchmark's server expects.

    Unlabelled pixels, and values that are no train ids, become raw id 0.
    """
    table = np.zeros(256, dtype=np.uint8)
    table[: len(CITYSCAPES_LABELS)] = [label.raw_id for label in CITYSCAPES_LABELS]
    return table[labels]
