"""Pictures that a data set holds twice: as the same file, or as nearly the same picture."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from atrous.data.doctor.measure import THUMBNAIL, Measurement

# Thumbnails whose mean difference in grey levels is lower show the same picture. Copies scaled by
# 0.6 and saved again at quality 50 differ by 2.1 at most, the pictures of CamVid's and VOC's train
# and val by 12.6 at least (benchmarks/near_duplicates.py).
_NEAR = 6.0
_FLAT = 4.0  # grey levels of standard deviation below which a thumbnail is too flat to compare
_BANDS = 8  # the signature has eight parts of 16 bits; pictures with an equal part are compared


Pair = tuple[int, int]  # two samples, by index


def same_files(measurements: Sequence[Measurement], among: Iterable[int]) -> list[list[int]]:
    """Returns groups of samples whose picture files are equal, byte for byte."""
    groups = defaultdict(list)
    for i in among:
        if measurements[i].digest:
            groups[measurements[i].digest].append(i)
    return [group for group in groups.values() if len(group) > 1]


def shared_files(
    measurements: Sequence[Measurement], one: Iterable[int], other: Iterable[int]
) -> list[Pair]:
    """Returns a pair of samples for each picture file that two splits share."""
    known = {measurements[i].digest: i for i in one if measurements[i].digest}
    return [(known[digest], i) for i in other if (digest := measurements[i].digest) in known]


def near_pairs(
    measurements: Sequence[Measurement], one: Sequence[int], other: Sequence[int]
) -> Iterator[Pair]:
    """Yields pairs of samples of two splits that look alike without being the same file."""
    (samples, pixels), (others, their_pixels) = (_thumbnails(measurements, s) for s in (one, other))
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, signature in enumerate(_signatures(pixels)):
        for band, bits in enumerate(signature.tolist()):
            buckets[band, bits].append(row)
    for row, signature in enumerate(_signatures(their_pixels)):
        near = {r for band, bits in enumerate(signature.tolist()) for r in buckets[band, bits]}
        rows = sorted(near)
        distances = np.abs(pixels[rows] - their_pixels[row]).mean(axis=1)
        for candidate in np.flatnonzero(distances <= _NEAR):
            first, second = samples[rows[candidate]], others[row]
            if measurements[first].digest != measurements[second].digest:
                yield first, second


def _thumbnails(
    measurements: Sequence[Measurement], among: Sequence[int]
) -> tuple[list[int], NDArray[np.int16]]:
    """Returns the samples whose thumbnails are not flat, and these thumbnails (N, 256)."""
    known = [i for i in among if measurements[i].thumbnail]
    joined = b"".join(measurements[i].thumbnail for i in known)
    pixels = np.frombuffer(joined, dtype=np.uint8).reshape(-1, THUMBNAIL**2).astype(np.int16)
    telling = np.flatnonzero(pixels.std(axis=1) >= _FLAT) if len(known) else np.array([], int)
    return [known[i] for i in telling], pixels[telling]


def _signatures(pixels: NDArray[np.int16]) -> NDArray[np.uint16]:
    """Returns 128 bits for each picture: does brightness grow from one column to the next."""
    grid = pixels.reshape(-1, THUMBNAIL, THUMBNAIL // 2, 2)
    bits = (grid[..., 1] > grid[..., 0]).reshape(len(pixels), 16 * _BANDS)
    return np.packbits(bits, axis=1).view(np.uint16).reshape(len(pixels), _BANDS)


def split_pairs(splits: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields pairs of a training split and a held-out split, which must not share pictures."""
    for one, other in combinations(splits, 2):
        if one[:3] != other[:3]:  # train, trainaug and train_coarse may share pictures
            yield (one, other) if one.startswith("train") else (other, one)
