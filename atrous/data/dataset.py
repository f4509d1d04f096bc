"""The interface of labelled pictures: a `Dataset` of `Sample`s.

A data set returns decoded pictures and targets by index. Their source may be pairs of files
(`FileDataset`), polygons or run lengths (`FileDataset` with a reader that draws them), tar shards,
or a seed (`atrous.data.scenes`).
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from atrous.classes import IGNORE_INDEX, Color, unlabelled
from atrous.errors import AtrousError, DataError, listed
from atrous.images.bands import PLAIN, Bands, Pixels
from atrous.images.decode import SUFFIXES, read_image
from atrous.images.raster import files_of, missing, open_raster
from atrous.images.tars import Member, opened

Target = NDArray[np.uint8 | np.uint16]

_PROBE = 1 << 16  # bytes hashed at either end of a file: the whole file up to 128 KiB


class Sample(NamedTuple):
    """A picture and its target, of the same size."""

    image: Pixels  # (H, W, C); 8-bit RGB unless the data set's `bands` say otherwise
    target: Target  # (H, W) class indices; the largest value of the type means unlabelled


class Dataset(Protocol):
    """Labelled pictures by index, in a fixed order.

    A data set of other pixels than 8-bit RGB has an attribute `bands` (`atrous.images.bands`).
    Implementations must be picklable, because workers receive a copy. They must not change the
    files, and must return the same sample for the same index every time. For a picture that cannot
    be read they raise `AtrousError` with the name of the file.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes in index order."""

    @property
    def palette(self) -> tuple[Color, ...]:
        """K colours in index order."""

    @property
    def names(self) -> Sequence[str]:
        """A stable, unique name of each sample, in index order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...

    def fingerprint(self) -> str:
        """Returns a SHA-256 in hexadecimal that changes when the samples do."""


Rectangle = tuple[int, int, int, int]  # top, left, height and width in pixels


class Item(NamedTuple):
    """One sample of a `FileDataset`, not yet read."""

    name: str  # the picture's path relative to the data set, with suffix: unique
    image: Path | Member
    annotation: Path | Member | None  # holds the target; None: the picture is unlabelled
    key: str = ""  # the picture's name in an annotation file or a list
    window: Rectangle | None = None  # the part of the picture that is the sample; None: all

    @property
    def file(self) -> Path:
        """The annotation of an item that has one, outside of tar files."""
        assert isinstance(self.annotation, Path)
        return self.annotation


ReadTarget = Callable[[Item, tuple[int, int]], Target]


@dataclass(frozen=True)
class FileDataset:
    """Pictures in files, with targets that a function reads from annotation files.

    Args:
        items: Name, picture and annotation of each sample. Several items may share an annotation.
        read_target: Returns the target (H, W) of an item, from the item and the picture's
            (height, width). It is pickled, so use a module-level function or a dataclass with
            `__call__`. It is not called for items without an annotation: all their pixels are
            unlabelled.
        classes: Names of the K classes in index order.
        palette: K colours in index order.
        bands: The channels of the pictures.
    """

    items: tuple[Item, ...]
    read_target: ReadTarget
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    bands: Bands = PLAIN

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The items' names."""
        return tuple(item.name for item in self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """Reads one sample.

        Raises:
            AtrousError: The picture or its annotation cannot be read, their sizes differ, or the
                target holds a value that is no class.
        """
        item = self.items[index]
        image, absent = read_pixels(item, self.bands)
        height, width = image.shape[:2]
        if item.annotation is None:
            dtype = target_dtype(len(self.classes))
            return Sample(image, np.full((height, width), unlabelled(len(self.classes)), dtype))
        target = self.read_target(item, (height, width))
        if target.shape != (height, width):
            raise other_size((height, width), target.shape, f"{item.image}, {item.annotation}")
        invalid = (target >= len(self.classes)) & (target != np.iinfo(target.dtype).max)
        if invalid.any():
            raise no_classes(target[invalid], len(self.classes), item.annotation)
        if absent is not None and (nothing := absent.all(axis=2)).any():
            target = np.where(nothing, target.dtype.type(unlabelled(len(self.classes))), target)
        return Sample(image, target)

    def fingerprint(self) -> str:
        """Hashes names, classes, file sizes, and up to 64 KiB at either end of each file."""
        parts = [name.encode() for name in self.classes]
        if not self.bands.plain:
            parts.append(str(self.bands).encode())
        digest_once = cache(file_digest)  # an annotation may serve many pictures
        shards = set()
        for item in self.items:
            if isinstance(item.image, Member):
                shards.add(item.image.shard)
                pair = f"Pair(name={item.key!r}, image={item.image!r}, mask={item.annotation!r})"
                parts.append(pair.encode("utf-8", "surrogateescape"))
                continue
            assert not isinstance(item.annotation, Member)
            # Version 0.1 named pictures without suffix: its runs must still recognise their data.
            name = stem(item.key) if item.key else item.name
            parts += [os.fsencode(name), digest_once(item.image)]
            if self.bands.sources:
                others = files_of(item.image, self.bands.sources)[1:]
                parts += [digest_once(Path(str(other))) for other in others]
            if item.window:
                parts.append(str(item.window).encode())
            parts.append(digest_once(item.annotation) if item.annotation else b"")
        return combined_digest([*parts, *map(file_digest, sorted(shards))])


def read_pixels(item: Item, bands: Bands) -> tuple[Pixels, NDArray[np.bool_] | None]:
    """Returns the picture of an item, (H, W, C), and where its channels have no value.

    Raises:
        AtrousError: The picture cannot be read, or has other channels.
    """
    if bands.plain and item.window is None:
        return np.array(read_image(opened(item.image))), None  # (H, W, 3), writable
    assert isinstance(item.image, Path)
    raster = open_raster(item.image, bands)
    pixels = bands.checked(raster.read(*(item.window or (0, 0, *raster.size))), item.image)
    return pixels, missing(pixels, raster.no_data)


def stem(name: str) -> str:
    """Returns the path of a picture without its suffix.

    >>> stem("street/0001.JPG"), stem("street/0001.v2")
    ('street/0001', 'street/0001.v2')
    """
    key, suffix = os.path.splitext(name)  # noqa: PTH122
    return key if suffix.lower() in SUFFIXES else name


def target_dtype(num_classes: int) -> type[np.uint8] | type[np.uint16]:
    """Returns the smallest type that holds every class index and the value for unlabelled."""
    return np.uint8 if num_classes <= IGNORE_INDEX else np.uint16


def other_size(picture: tuple[int, ...], target: tuple[int, ...], where: object) -> AtrousError:
    """Returns the error for a target that has not the (height, width) of its picture."""
    fix = "resize the mask to the picture's size with nearest neighbour"
    if target == picture[::-1]:
        fix = "EXIF turns the picture and not the mask: save the picture upright, or turn the mask"
    (height, width), (rows, columns) = picture, target
    what = f"the picture is {height}x{width}, its target {rows}x{columns} (height x width)"
    return DataError("E-DATA-SIZE", what, where=where, fix=fix)


def no_classes(values: NDArray[Any], num_classes: int, where: object) -> AtrousError:
    """Returns the error for pixels of a target whose values are no classes."""
    found = np.unique(values, return_counts=True)
    shown = listed(f"{value} ({count} px)" for value, count in zip(*found, strict=True))
    what = f"values that are none of the {num_classes} classes: {shown}"
    fix = "map these values with label_mapping, or add the missing classes"
    return DataError("E-DATA-LABEL", what, where=where, fix=fix)


def file_digest(path: Path) -> bytes:
    """Returns the SHA-256 of a file's size and of up to 64 KiB at either end.

    Raises:
        AtrousError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(size.to_bytes(8, "little"))
            digest.update(file.read(_PROBE))
            file.seek(max(_PROBE, size - _PROBE))
            digest.update(file.read(_PROBE))
    except OSError as error:
        raise DataError("E-FILE-READ", f"cannot be read: {error.strerror}", where=path) from None
    return digest.digest()


def combined_digest(parts: Iterable[bytes]) -> str:
    """Returns the SHA-256 of a sequence of parts in hexadecimal; lengths are hashed, too."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
