"""Parts of a data set: some of its samples, or some of its classes."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from atrous.classes import Color, pascal_palette
from atrous.data.dataset import Dataset, Sample, Target, combined_digest, ignore_index, target_dtype
from atrous.errors import AtrousError, ExitCode, unknown_name

BACKGROUND = "background"


@dataclass(frozen=True)
class Part:
    """Some samples of a data set.

    Args:
        dataset: The data set.
        indices: Which samples, in order.
        identity: The fingerprint; "": the fingerprint is computed from the files.
    """

    dataset: Dataset
    indices: Sequence[int]
    identity: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.dataset.classes

    @property
    def palette(self) -> tuple[Color, ...]:
        """Colours of the classes."""
        return self.dataset.palette

    @property
    def names(self) -> Sequence[str]:
        """Names of the samples."""
        return [self.dataset.names[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]

    def fingerprint(self) -> str:
        """Returns a SHA-256 that changes when the samples do."""
        indices = str(list(self.indices)).encode()
        return self.identity or combined_digest([self.dataset.fingerprint().encode(), indices])


def fifth(data: Dataset, where: str) -> tuple[Dataset, Dataset]:
    """Splits a data set into four fifths and a fifth by hashes of the pictures' names.

    A picture therefore stays in its part when others are added.

    Args:
        data: The data set.
        where: The data set's name for an error.

    Raises:
        AtrousError: There is one picture.
    """
    if len(data) < 2:
        raise AtrousError(
            "E-DATA-EMPTY",
            "the data set has one picture: none can be held out to evaluate on",
            where=where,
            fix="label more pictures",
            exit_code=ExitCode.DATA,
        )
    names = data.names
    ranked = sorted(range(len(data)), key=lambda i: hashlib.sha256(os.fsencode(names[i])).digest())
    held_out = -(-len(data) // 5)
    return Part(data, sorted(ranked[held_out:])), Part(data, sorted(ranked[:held_out]))


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
    def names(self) -> Sequence[str]:
        """Names of the samples."""
        return self.dataset.names

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        image, target = self.dataset[index]
        size, unlabelled = np.iinfo(target.dtype).max + 1, ignore_index(len(self.classes))
        table: Target = np.full(size, unlabelled, target_dtype(len(self.classes)))
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
