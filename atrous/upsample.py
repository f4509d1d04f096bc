"""Labels at the picture's own size from coarse logits, without the full-resolution logits."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError

CHUNK_BYTES = 16 << 20  # of full-resolution logits alive at a time


def labels(
    coarse: NDArray[np.float32], stride: int, size: tuple[int, int]
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Returns the class of the largest bilinearly upsampled logit at every pixel.

    Pixel i takes its logits from coarse position i / stride, clamped at the border. Of equal
    logits the lowest class wins. The result is that of `plain_labels`, bit for bit, at a fraction
    of the cost: a cell of stride x stride pixels whose four corners agree on the winner by a
    margin is filled with it, and only the others are interpolated.

    Why that is exact: a pixel's logits are convex combinations of the corners', the same one for
    all classes, so a winner that leads by m at each corner leads by at least m inside, in exact
    arithmetic. With u = 2**-24 and no logit beyond M in magnitude, the float32
    ``a + (b - a) * w``, 0 <= w < 1, errs by at most 2M(2u + u**2) in the product (|b - a| <= 2M)
    and by u(M + 4.1uM) in the sum: below 5.1uM. The second interpolation, across, inherits at
    most that from its inputs (it is convex), and adds as much again, of inputs below
    M(1 + 5.1u): together below 10.3uM, for each of two classes below 20.6uM. Underflow adds less
    than 2**-147. So a margin above 24uM + 2**-140 cannot be lost to rounding.

    Args:
        coarse: (h, w, K) logits; (i, j) belongs to pixel (i * stride, j * stride).
        stride: Pixels per step of `coarse`.
        size: Height and width of the picture.

    Returns:
        (H, W) uint8, or uint16 for more than 256 classes.
    """
    if not np.isfinite(coarse).all():
        return plain_labels(coarse, stride, size)
    beyond = [(0, max(0, -(-size[axis] // stride) - coarse.shape[axis])) for axis in (0, 1)]
    if beyond != [(0, 0), (0, 0)]:
        coarse = np.pad(coarse, (*beyond, (0, 0)), mode="edge")
    result = np.empty(size, np.uint8 if coarse.shape[2] <= 256 else np.uint16)
    cell_rows, cell_columns = -(-size[0] // stride), -(-size[1] // stride)
    block = max(1, CHUNK_BYTES // (8 * coarse.shape[1] * coarse.shape[2]))
    for top in range(0, cell_rows, block):
        bottom = min(top + block, cell_rows)
        winners, decided = _decided_cells(coarse[top : bottom + 1])
        part = result[top * stride : bottom * stride]
        winners = winners[: bottom - top, :cell_columns]
        part[:] = winners.repeat(stride, 0).repeat(stride, 1)[: part.shape[0], : part.shape[1]]
        undecided = np.nonzero(~decided[: bottom - top, :cell_columns])
        _interpolate(part, coarse[top : bottom + 1], stride, *undecided)
    return result


def undecided_share(coarse: NDArray[np.float32]) -> float:
    """Returns the share of cells that `labels` has to interpolate, 0..1."""
    return float(1 - _decided_cells(coarse)[1].mean())


def _decided_cells(coarse: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Returns the winner at each cell's first corner, and whether it wins the whole cell."""
    planes = np.ascontiguousarray(np.moveaxis(coarse, 2, 0))  # (K, h, w): K is short to reduce
    best = planes[0].copy()
    second = np.full_like(best, -np.inf)
    winner = np.zeros(best.shape, np.uint8 if len(planes) <= 256 else np.uint16)
    scratch, better = np.empty_like(best), np.empty(best.shape, bool)
    for index, plane in enumerate(planes[1:], start=1):
        np.greater(plane, best, out=better)
        np.copyto(winner, index, where=better)
        np.minimum(plane, best, out=scratch)
        np.maximum(second, scratch, out=second)
        np.maximum(best, plane, out=best)
    largest = max(float(planes.max()), -float(planes.min()))
    decided = best - second > 24 * 2.0**-24 * largest + 2.0**-140
    for axis in (0, 1):  # the neighbours below and to the right; at the border, oneself
        after = np.minimum(np.arange(1, winner.shape[axis] + 1), winner.shape[axis] - 1)
        decided &= decided.take(after, axis)
        decided &= winner == winner.take(after, axis)
    return winner, decided


def _interpolate(
    result: NDArray[Any],
    coarse: NDArray[np.float32],
    stride: int,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
) -> None:
    """Labels the pixels of some cells with the arithmetic of `upsampled_rows`."""
    at_a_time = max(1, CHUNK_BYTES // (32 * stride**2 + 16 * coarse.shape[2]))
    for start in range(0, len(rows), at_a_time):
        some = rows[start : start + at_a_time], columns[start : start + at_a_time]
        winners = _winners_within(coarse, stride, *some).astype(result.dtype)
        y = some[0] * stride + np.arange(stride)[:, None, None]  # (stride, 1, n)
        x = some[1] * stride + np.arange(stride)[:, None]  # (stride, n)
        y, x = np.broadcast_arrays(y, x)
        if y[-1].max() < result.shape[0] and x[:, -1].max() < result.shape[1]:
            result[y, x] = winners
        else:  # some cells reach over the border
            inside = (y < result.shape[0]) & (x < result.shape[1])
            result[y[inside], x[inside]] = winners[inside]


def _winners_within(
    coarse: NDArray[np.float32],
    stride: int,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
) -> NDArray[np.uint16]:
    """Returns the winner at each pixel of n cells, (stride, stride, n)."""
    across = (np.arange(stride) / np.float32(stride)).astype(np.float32)[:, None]
    down = across[:, None]
    below = np.minimum(rows + 1, coarse.shape[0] - 1)
    right = np.minimum(columns + 1, coarse.shape[1] - 1)
    corners = [
        np.ascontiguousarray(coarse[i, j].T)  # (K, n)
        for i, j in ((rows, columns), (below, columns), (rows, right), (below, right))
    ]
    winners = np.zeros((stride, stride, len(rows)), np.uint16)
    best: NDArray[np.float32] | None = None
    for index, (a, b, c, d) in enumerate(zip(*corners, strict=True)):
        left = a + (b - a) * down  # (stride, 1, n)
        logits = left + ((c + (d - c) * down) - left) * across
        if best is None:
            best = logits
        else:
            np.copyto(winners, index, where=logits > best)
            np.maximum(best, logits, out=best)
    return winners


def plain_labels(
    coarse: NDArray[np.float32], stride: int, size: tuple[int, int]
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Does what `labels` does by interpolating everything, in chunks: what it is tested against."""
    height, width = size
    num_classes = coarse.shape[2]
    result = np.empty(size, np.uint8 if num_classes <= 256 else np.uint16)
    rows = max(1, CHUNK_BYTES // max(1, 4 * width * num_classes))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        result[top:bottom] = upsampled_rows(coarse, stride, top, bottom, width).argmax(axis=2)
    return result


def probability(
    coarse: NDArray[np.float32], stride: int, size: tuple[int, int], index: int
) -> NDArray[np.float32]:
    """Returns the softmax of one class at every pixel, (H, W) in 0..1, row by row as `labels`."""
    height, width = size
    if not 0 <= index < coarse.shape[2]:
        raise AtrousError("E-CLASS-INDEX", f"class {index} of {coarse.shape[2]}")
    result = np.empty(size, np.float32)
    rows = max(1, CHUNK_BYTES // max(1, 4 * width * coarse.shape[2]))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        logits = upsampled_rows(coarse, stride, top, bottom, width)
        logits -= logits.max(axis=2, keepdims=True)
        np.exp(logits, out=logits)
        result[top:bottom] = logits[..., index] / logits.sum(axis=2)
    return result


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
