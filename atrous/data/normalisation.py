"""The normalisation of a data set: mean and deviation of each channel over its pixels with data."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from atrous.data.dataset import FileDataset, read_pixels
from atrous.data.splitting import Subset
from atrous.errors import DataError
from atrous.images.bands import Pixels

PICTURES = 200  # looked at, evenly spaced


Sums = NDArray[np.float64]  # (3, C): number of values, their sum, and the sum of their squares


def normalisation_of(sums: Sequence[Sums]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and deviation of each channel over some pictures, in five digits.

    Raises:
        AtrousError: A channel has no values, or one value everywhere.
    """
    pixels, total, squares = np.sum(sums, axis=0)
    count = np.maximum(pixels, 1)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    if not (pixels.all() and std.all()):
        channel = int(np.argmin(np.where(pixels > 0, std, -1)))
        raise DataError(
            "E-DATA-CHANNEL",
            f"channel {channel + 1} has one value in all pictures, or no data",
            fix="correct `bands` in the dataset YAML, or leave the channel out",
        )
    first, second = (tuple(float(f"{v:.5g}") for v in values) for values in (mean, std))
    return first, second


def sums_of(pixels: Pixels, absent: NDArray[np.bool_] | None) -> Sums:
    """Returns the sums of a picture (H, W, C), without the values that are absent."""
    values = pixels.reshape(-1, pixels.shape[2]).astype(np.float64)
    known = np.isfinite(values)
    if absent is not None:
        known &= ~absent.reshape(values.shape)
    values = np.where(known, values, 0.0)
    return np.stack([known.sum(0), values.sum(0), np.square(values).sum(0)])


def measured(dataset: object) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and deviation of each channel, over evenly spaced pictures of a data set.

    Raises:
        AtrousError: A picture cannot be read, or a channel has no values.
    """
    count = len(dataset)  # type: ignore[arg-type]
    places = range(0, count, -(-count // PICTURES))
    return normalisation_of([sums_of(*_pixels(dataset, i)) for i in places])


def _pixels(dataset: object, index: int) -> tuple[Pixels, NDArray[np.bool_] | None]:
    while (inside := getattr(dataset, "dataset", None)) is not None:  # a part, or renamed classes
        index = dataset.indices[index] if isinstance(dataset, Subset) else index
        dataset = inside
    if isinstance(dataset, FileDataset):
        return read_pixels(dataset.items[index], dataset.bands)
    return dataset[index].image, None  # type: ignore[index]
