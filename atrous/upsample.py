"""Labels at the picture's own size from coarse logits, without the full-resolution logits."""

import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError

CHUNK_BYTES = 16 << 20  # of full-resolution logits alive at a time


def labels(
    coarse: NDArray[np.float32], stride: int, size: tuple[int, int]
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Returns the class of the largest bilinearly upsampled logit at every pixel.

    Pixel i takes its logits from coarse position i / stride, clamped at the border. Of equal
    logits the lowest class wins.

    Args:
        coarse: (h, w, K) logits; (i, j) belongs to pixel (i * stride, j * stride).
        stride: Pixels per step of `coarse`.
        size: Height and width of the picture.

    Returns:
        (H, W) uint8, or uint16 for more than 256 classes.
    """
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
