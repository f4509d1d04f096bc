"""Splits made from names, so that every machine makes the same split."""

import hashlib
import os
from collections.abc import Sequence

from atrous.data.dataset import Dataset, Sample, combined_digest
from atrous.errors import DataError
from atrous.images.bands import bands_of


def held_out(names: Sequence[str], count: int, *, seed: int = 0) -> set[int]:
    """Returns the indices of the `count` names with the lowest SHA-256.

    The choice depends on each name and the seed alone. Adding a name therefore moves at most one
    other name, and neither the order of the names nor the machine matters.

    Args:
        names: Different names.
        count: Number of names to choose.
        seed: Another seed makes another choice.
    """
    salt = f"{seed}:".encode() if seed else b""
    ranks = [hashlib.sha256(salt + os.fsencode(name)).digest() for name in names]
    return set(sorted(range(len(names)), key=lambda i: (ranks[i], names[i]))[:count])


def split_off(dataset: Dataset, share: float = 0.2, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Divides a data set into training data and validation data.

    Args:
        dataset: The data set, of at least two samples.
        share: Share of the samples for validation, above 0 and below 1. Both parts get at least
            one sample.
        seed: Another seed makes another choice.

    Returns:
        The training data and the validation data.

    Raises:
        AtrousError: Fewer than two samples, or an impossible share.
    """
    if not 0 < share < 1 or len(dataset) < 2:
        raise DataError(
            "E-DATA-SPLIT",
            f"{len(dataset)} samples cannot be divided with a share of {share:g} held out",
            fix="a split needs two samples or more, and a share between 0 and 1",
        )
    count = min(max(1, round(share * len(dataset))), len(dataset) - 1)
    val = held_out(dataset.names, count, seed=seed)
    rest = tuple(index for index in range(len(dataset)) if index not in val)
    return Subset(dataset, rest), Subset(dataset, tuple(sorted(val)))


class Subset:
    """Some samples of a data set (a `Dataset` itself).

    Args:
        dataset: Where the samples come from.
        indices: Which samples, in order.
        identity: The fingerprint; "": `fingerprint` hashes the files.
    """

    def __init__(self, dataset: Dataset, indices: Sequence[int], identity: str = "") -> None:
        self.dataset, self.indices, self.identity = dataset, indices, identity
        self.classes, self.palette, self.bands = dataset.classes, dataset.palette, bands_of(dataset)
        self.names = tuple(dataset.names[index] for index in indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]

    def fingerprint(self) -> str:
        """Hashes the whole data set's fingerprint and the names of the samples."""
        return self.identity or combined_digest(
            [self.dataset.fingerprint().encode(), *(os.fsencode(name) for name in self.names)]
        )
