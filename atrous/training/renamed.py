"""A data set with some of its classes, or with other names for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from atrous.classes import Color, pascal_palette, unlabelled
from atrous.data.dataset import Dataset, Sample, Target, combined_digest, target_dtype
from atrous.errors import unknown_name
from atrous.images.bands import Bands, bands_of

BACKGROUND = "background"


@dataclass(frozen=True)
class Renamed:
    """A data set with other classes.

    Args:
        dataset: The data set.
        classes: The new names.
        index: New index of each old class.
    """

    dataset: Dataset
    classes: tuple[str, ...]
    index: tuple[int, ...]

    @property
    def palette(self) -> tuple[Color, ...]:
        """Colours of the classes."""
        return pascal_palette(len(self.classes))

    @property
    def bands(self) -> Bands:
        """The channels of the pictures."""
        return bands_of(self.dataset)

    @property
    def names(self) -> Sequence[str]:
        """Names of the samples."""
        return self.dataset.names

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        image, target = self.dataset[index]
        size, num_classes = np.iinfo(target.dtype).max + 1, len(self.classes)
        table: Target = np.full(size, unlabelled(num_classes), target_dtype(num_classes))
        table[: len(self.index)] = self.index
        return Sample(image, table[target])

    def fingerprint(self) -> str:
        """Returns a SHA-256 that changes when samples or classes do."""
        classes = f"{self.classes} {self.index}".encode()
        return combined_digest([self.dataset.fingerprint().encode(), classes])


def with_names(data: Dataset, names: Sequence[str]) -> Dataset:
    """Returns a data set with chosen or renamed classes.

    Names that the data set has are the classes to keep: all others become background. ``car=auto``
    keeps the class auto under the name car. Where the data set has none of the names, they replace
    its own, of all classes or of all but the background.

    Args:
        data: The data set.
        names: Names, in the order of the new classes; empty: the data set stays as it is.

    Raises:
        AtrousError: Some of the names are classes of the data set and others are not, or their
            number does not fit.
    """
    if not names:
        return data
    new = [name.partition("=")[0] for name in names]
    old = [name.rpartition("=")[2] for name in names]
    known = [name for name in old if name in data.classes]
    if known and len(known) == len(old):
        if BACKGROUND not in new:
            new, old = [BACKGROUND, *new], [BACKGROUND, *old]
        rest = new.index(BACKGROUND)
        index = tuple(old.index(name) if name in old else rest for name in data.classes)
        return Renamed(data, tuple(new), index)
    if not known and len(names) == len(data.classes) - 1:
        new = [BACKGROUND, *new]
    if known or len(new) != len(data.classes):
        raise unknown_name("class", next(n for n in old if n not in known), data.classes)
    return Renamed(data, tuple(new), tuple(range(len(new))))
