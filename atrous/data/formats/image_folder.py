"""Classified pictures, with a folder for each class: train/CLASS/..., val/CLASS/...

ImageNet's layout. torchvision calls it ImageFolder.
"""

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atrous.classes import Color, pascal_palette
from atrous.data.dataset import Sample, combined_digest, target_dtype
from atrous.data.formats.pairing import split_name, walk
from atrous.errors import AtrousError, DataError, listed
from atrous.images.decode import SUFFIXES, read_image

LOOKS_FOR = "train/ and val/, each with a folder of pictures for each class"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFolder:
    """Pictures whose folder is their class. All pixels of a picture have this class.

    Args:
        root: Folder of a split.
        names: Path of each picture within it, CLASS/..., sorted.
        classes: Names of the K class folders, sorted.
    """

    root: Path
    names: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def palette(self) -> tuple[Color, ...]:
        """Colours of the classes: PASCAL's, which repeat after 256."""
        return pascal_palette(len(self.classes))

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The class index of each picture."""
        index = {name: i for i, name in enumerate(self.classes)}
        return np.array([index[_class_of(name)] for name in self.names], np.int64)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        """Reads one picture.

        Raises:
            AtrousError: It cannot be read.
        """
        image = np.array(read_image(self.root / self.names[index]))  # (H, W, 3), writable
        dtype = target_dtype(len(self.classes))
        return Sample(image, np.full(image.shape[:2], self.labels[index], dtype))

    def fingerprint(self) -> str:
        """Hashes names and sizes of the files. Reading a million files would take hours."""
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(f"{name} {(self.root / name).stat().st_size}\n".encode(errors="replace"))
        return combined_digest(
            [*(name.encode(errors="replace") for name in self.classes), digest.digest()]
        )


def open_image_folder(path: str | Path, split: str = "val") -> ImageFolder:
    """Opens a split of a folder of classified pictures.

    Hidden files, and files without the suffix of a picture, are left out.

    Args:
        path: The folder that holds train/ and val/.
        split: The folder in it, in any usual spelling ("val", "valid", "validation").

    Raises:
        AtrousError: The folder or the split is missing, the split has no folders of classes or
            pictures outside of these folders, or a class has no pictures.
    """
    root = Path(path)
    if not root.is_dir():
        raise AtrousError("E-FILE-MISSING", "no such folder", where=root)
    wanted = split_name(split)
    folders = [p for p in sorted(root.iterdir()) if p.is_dir() and split_name(p.name) == wanted]
    if not folders:
        found = listed(sorted(p.name for p in root.iterdir()))
        raise _wrong(root, f"no folder {split}/; it holds {found}")
    folder = next((p for p in folders if p.name == split), folders[0])
    classes = tuple(
        sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    )
    files = sorted(walk(folder))
    names = [name for name in files if Path(name).suffix.lower() in SUFFIXES]
    outside = [name for name in names if "/" not in name]
    if outside:
        raise _wrong(
            folder, f"{len(outside)} pictures outside the folders of classes: {listed(outside)}"
        )
    if not classes:
        raise _wrong(folder, "no folders of classes")
    counts = Counter(map(_class_of, names))
    if empty := [name for name in classes if not counts[name]]:
        raise _wrong(folder, f"classes without pictures: {listed(empty)}")
    if len(names) < len(files):
        kept = set(names)
        others = [name for name in files if name not in kept]
        log.warning("%s: files that are no pictures left out: %s", folder, listed(others))
    return ImageFolder(folder, tuple(names), classes)


def looks_like_image_folder(path: Path) -> bool:
    """Returns whether a folder has a training split with folders of pictures."""
    try:
        return bool(open_image_folder(path, "train").names)
    except AtrousError:
        return False


def _class_of(name: str) -> str:
    return name.partition("/")[0]


def _wrong(where: Path, what: str) -> AtrousError:
    return DataError(
        "E-DATA-LAYOUT",
        what,
        where=where,
        fix=f"to classify, name a folder with {LOOKS_FOR}: train/CLASS/x.jpg, val/CLASS/y.jpg",
    )
