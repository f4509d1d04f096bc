"""Labels at the picture's own size from coarse logits, without all logits at that size."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous.classes import Labels
from atrous.errors import AtrousError

CHUNK_BYTES = 16 << 20  # full-resolution logits in memory at a time
LARGEST = 2.0**100  # larger logits could overflow, and the proof in `labels` would not hold
CACHE_BYTES = 1 << 20  # values in work at a time, so that they stay in the cache
CELLS_AT_A_TIME = 1024


def labels(coarse: NDArray[np.float32], stride: int, size: tuple[int, int]) -> Labels:
    """Returns the class of the largest bilinearly upsampled logit at every pixel.

    Pixel i takes its logits from coarse position i / stride, clamped at the border. Of equal
    logits the lowest class wins. The result is that of `plain_labels`, bit for bit, at a fraction
    of the cost: a cell of stride x stride pixels whose four corners agree on the winner by a
    margin is filled with it. In most others two classes, or the mean of the two, lead all the
    rest by that margin at every corner: only those two are interpolated.

    Why that is exact: a pixel's logits are convex combinations of the corners' logits, with the
    same weights for all classes. In exact arithmetic, a class that leads by m at each corner
    therefore leads by at least m inside. The larger of two classes is at least their mean.

    With u = 2**-24 and no logit beyond M in magnitude, the float32 ``a + (b - a) * w``,
    0 <= w < 1, errs by at most
    2M(2u + u**2) in the product (|b - a| <= 2M) and by u(M + 4.1uM) in the sum: below 5.1uM. The
    second interpolation, across, inherits at most that from its inputs (it is convex), and adds
    as much again, of inputs below M(1 + 5.1u): together below 10.3uM, for each of two classes
    below 20.6uM. The margin itself is computed with an error below 4uM: a mean errs by uM, a
    difference by 2uM, the threshold by uM. Underflow adds less than 2**-147. So a margin above
    32uM + 2**-140 cannot be lost to rounding.

    Args:
        coarse: (h, w, K) logits; (i, j) belongs to pixel (i * stride, j * stride).
        stride: Pixels per step of `coarse`.
        size: Height and width of the picture.

    Returns:
        (H, W) uint8, or uint16 for more than 256 classes.
    """
    if not max(float(coarse.max()), -float(coarse.min())) < LARGEST:  # also catches NaN
        return plain_labels(coarse, stride, size)
    beyond = [(0, max(0, -(-size[axis] // stride) - coarse.shape[axis])) for axis in (0, 1)]
    if beyond != [(0, 0), (0, 0)]:
        coarse = np.pad(coarse, (*beyond, (0, 0)), mode="edge")
    result = np.empty(size, _label_type(coarse.shape[2]))
    cell_rows, cell_columns = -(-size[0] // stride), -(-size[1] // stride)
    block = max(1, CHUNK_BYTES // (8 * coarse.shape[1] * coarse.shape[2]))
    for top in range(0, cell_rows, block):
        bottom = min(top + block, cell_rows)
        corners = _Corners(coarse[top : bottom + 1, : cell_columns + 1])
        pixels = _pixels(corners, stride, (bottom - top, cell_columns))
        part = result[top * stride : bottom * stride]
        part[:] = pixels[: part.shape[0], : part.shape[1]]
    return result


def undecided_share(coarse: NDArray[np.float32]) -> float:
    """Returns the share of cells that `labels` has to interpolate, 0..1."""
    return float(1 - _Corners(coarse).agree().mean())


def _label_type(num_classes: int) -> Any:
    return np.uint8 if num_classes <= 256 else np.uint16


class _Corners:
    """Logits where cells meet, (h, w, K), and who wins there.

    Attributes:
        planes: The logits as (K, h * w): K is short to reduce.
        margin: A lead above it survives rounding.
        winner: (h, w), a class that no other class leads by the margin.
        alone: (h, w), whether the winner leads all other classes by the margin.
    """

    def __init__(self, coarse: NDArray[np.float32]) -> None:
        height, width, _ = coarse.shape
        self.planes = _planes(coarse)
        best = self.planes.max(axis=0)
        largest = max(float(best.max()), -float(self.planes.min()))
        self.margin = np.float32(32 * 2.0**-24 * largest + 2.0**-140)
        close = (self.planes >= best - self.margin).view(np.uint8)
        num_classes = len(self.planes)
        kind = _label_type(num_classes)
        self.alone = (close.sum(axis=0, dtype=kind) == 1).reshape(height, width)
        indices = np.arange(num_classes, dtype=kind)[:, None]
        self.winner: NDArray[Any] = (close * indices).max(axis=0).reshape(height, width)

    def agree(self) -> NDArray[np.bool_]:
        """Returns (h, w), whether a cell's corners have the same winner, alone at each.

        Cell (i, j) lies between (i, j) and (i + 1, j + 1); at the border, the last repeats.
        """
        result, winner = self.alone.copy(), self.winner
        result[:, :-1] &= self.alone[:, 1:] & (winner[:, :-1] == winner[:, 1:])
        result[:-1] &= result[1:] & (winner[:-1] == winner[1:])
        return result


def _planes(coarse: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns logits (h, w, K) as (K, h * w), without a copy if memory has that order already."""
    height, width, num_classes = coarse.shape
    if coarse.strides[2] > coarse.strides[1]:
        return coarse.transpose(2, 0, 1).reshape(num_classes, height * width)
    pixels = coarse.reshape(height * width, num_classes)
    planes = np.empty((num_classes, height * width), np.float32)
    for start in range(0, height * width, 256):  # blocks that fit into the cache: twice as fast
        planes[:, start : start + 256] = pixels[start : start + 256].T
    return planes


def _pixels(corners: _Corners, stride: int, cells: tuple[int, int]) -> NDArray[Any]:
    """Returns the labels of the pixels of so many rows and columns of cells."""
    height, width = cells
    winner = corners.winner[:height, :width]
    pixels = np.empty((height, stride, width, stride), winner.dtype)
    pixels.reshape(height, stride, -1)[:] = winner.repeat(stride, axis=1)[:, None]
    by_cell = pixels.transpose(1, 3, 0, 2)
    undecided = np.flatnonzero(~corners.agree()[:height, :width])
    for start in range(0, len(undecided), CELLS_AT_A_TIME):
        some = np.divmod(undecided[start : start + CELLS_AT_A_TIME], width)
        by_cell[:, :, *some] = _interpolated(corners, stride, *some)
    return pixels.reshape(height * stride, width * stride)


def _interpolated(
    corners: _Corners, stride: int, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[Any]:
    """Returns the labels of the pixels of n cells, (stride, stride, n)."""
    height, width = corners.winner.shape
    below = np.where(rows < height - 1, width, 0)
    right = np.where(columns < width - 1, 1, 0)
    first = rows * width + columns
    places = np.stack([first, first + below, first + right, first + below + right])  # (4, n)
    logits = corners.planes.take(places, axis=1)  # (K, 4, n)
    winners = corners.winner.ravel()[places]
    low, high = winners.min(axis=0), winners.max(axis=0)
    each = np.arange(len(rows))
    of_low, of_high = corners.planes[low, places], corners.planes[high, places]  # (4, n)
    lead = (logits - (of_low + of_high) * np.float32(0.5)).max(axis=1)  # (K, n)
    lead[low, each] = lead[high, each] = -np.inf  # leaves the leads of all other classes
    only_two = ((winners == low) | (winners == high)).all(axis=0)
    only_two &= lead.max(axis=0) < -corners.margin
    result = np.where(_bilinear(of_high, stride) > _bilinear(of_low, stride), high, low)
    more = np.flatnonzero(~only_two)
    if len(more):
        result[..., more] = _winners(logits.take(more, axis=2), stride)
    return result


def _winners(logits: NDArray[np.float32], stride: int) -> NDArray[np.uint16]:
    """Returns the winner at each pixel of n cells, (stride, stride, n), from (K, 4, n) corners."""
    num_classes, _, count = logits.shape
    winners = np.empty((stride, stride, count), np.uint16)
    # The lowest index wins ties.
    preference = np.arange(num_classes, 0, -1, dtype=np.uint16)[:, None, None, None]
    at_a_time = max(1, CACHE_BYTES // (4 * num_classes * stride**2))
    for start in range(0, count, at_a_time):
        some = slice(start, start + at_a_time)
        values = _bilinear(logits[..., some].swapaxes(0, 1), stride)  # (K, stride, stride, n)
        best = (values == values.max(axis=0)) * preference
        winners[..., some] = num_classes - best.max(axis=0)
    return winners


def _bilinear(corners: NDArray[np.float32], stride: int) -> NDArray[np.float32]:
    """Interpolates cells with the arithmetic of `upsampled_rows`: (4, ..., n) corners, n cells.

    Returns:
        (..., stride, stride, n).
    """
    across = (np.arange(stride) / np.float32(stride)).astype(np.float32)[:, None]
    down = across[:, None]
    above, below, above_right, below_right = corners[..., None, None, :]
    left = above + (below - above) * down  # (..., stride, 1, n)
    right = above_right + (below_right - above_right) * down
    return left + (right - left) * across


def plain_labels(coarse: NDArray[np.float32], stride: int, size: tuple[int, int]) -> Labels:
    """Interpolates every pixel, in chunks; tests compare `labels` with this."""
    result = np.empty(size, _label_type(coarse.shape[2]))
    for rows, logits in _in_chunks(coarse, stride, size):
        result[rows] = logits.argmax(axis=2)
    return result


def probability(
    coarse: NDArray[np.float32], stride: int, size: tuple[int, int], index: int
) -> NDArray[np.float32]:
    """Returns the softmax of one class at every pixel, (H, W) in 0..1, row by row as `labels`."""
    if not 0 <= index < coarse.shape[2]:
        raise AtrousError("E-CLASS-INDEX", f"class {index} of {coarse.shape[2]}")
    result = np.empty(size, np.float32)
    for rows, logits in _in_chunks(coarse, stride, size):
        exponentials = _exponentials(logits)
        result[rows] = exponentials[..., index] / exponentials.sum(axis=2)
    return result


def confidence(
    coarse: NDArray[np.float32], stride: int, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Returns the largest softmax at every pixel, (H, W) in 1/K..1, row by row as `labels`."""
    result = np.empty(size, np.float32)
    for rows, logits in _in_chunks(coarse, stride, size):
        result[rows] = 1 / _exponentials(logits).sum(axis=2)
    return result


def mean_confidence(coarse: NDArray[np.float32]) -> float:
    """Returns the mean over all positions of (h, w, K) logits of the largest softmax, 1/K..1."""
    height, width, num_classes = coarse.shape
    total, step = 0.0, max(1, CACHE_BYTES // (4 * width * num_classes))
    for top in range(0, height, step):
        planes = _planes(coarse[top : top + step])  # NumPy reduces the first axis fastest
        exponentials = np.exp(planes - planes.max(axis=0))
        total += float((1 / exponentials.sum(axis=0)).sum())
    return total / (height * width)


def _in_chunks(
    coarse: NDArray[np.float32], stride: int, size: tuple[int, int]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yields rows of the picture and their full-resolution logits, few enough at a time."""
    height, width = size
    step = max(1, CHUNK_BYTES // max(1, 4 * width * coarse.shape[2]))
    for top in range(0, height, step):
        bottom = min(top + step, height)
        yield slice(top, bottom), upsampled_rows(coarse, stride, top, bottom, width)


def _exponentials(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the exponentials of the softmax, in place; 1 for the largest logit of a pixel."""
    logits -= logits.max(axis=2, keepdims=True)
    return np.exp(logits, out=logits)


def upsampled_rows(
    coarse: NDArray[np.float32], stride: int, top: int, bottom: int, width: int
) -> NDArray[np.float32]:
    """Returns rows `top` to `bottom` of the full-resolution logits, (bottom - top, width, K)."""
    above, below, down = _source(np.arange(top, bottom), stride, coarse.shape[0])
    left, right, across = _source(np.arange(width), stride, coarse.shape[1])
    down, across = down[:, None, None], across[None, :, None]
    rows = coarse[above] + (coarse[below] - coarse[above]) * down
    return rows[:, left] + (rows[:, right] - rows[:, left]) * across


def _source(
    target: NDArray[np.int64], stride: int, length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Returns for each pixel the two neighbours on one axis and the weight of the second."""
    low = np.minimum(target // stride, length - 1)
    high = np.minimum(low + 1, length - 1)
    weight = np.where(target // stride >= length, 0, target % stride) / np.float32(stride)
    return low, high, weight.astype(np.float32)
