"""Windows of resized pictures, computed without resizing the rest.

Picture and target are resized as in the authors' code. Corner pixels stay corner pixels
(``align_corners=True``). Pictures are bilinear without antialiasing, targets nearest neighbour.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from atrous.data.dataset import Target
from atrous.images.bands import Pixels


class Window(NamedTuple):
    """A part of a resized picture."""

    size: tuple[int, int]  # (height, width) of the whole resized picture
    top: int
    left: int
    height: int
    width: int


def random_window(size: tuple[int, int], crop: tuple[int, int], rng: Generator) -> Window:
    """Returns a window at a random place: of the crop's size, at most of the picture's `size`."""
    height, width = map(min, size, crop)
    top = int(rng.integers(size[0] - height + 1))
    left = int(rng.integers(size[1] - width + 1))
    return Window(size, top, left, height, width)


def resized_image(image: Pixels, window: Window) -> Tensor:
    """Returns the window of a picture (H, W, C) resized bilinearly.

    Equals resizing the whole picture with ``torch.nn.functional.interpolate`` as uint8 and then
    cutting, bit for bit (with torch's vectorised kernel); differs from resizing in floating point
    by at most one level: rows and columns are each rounded to 8 bits.

    Returns:
        (C, height, width), channels last in memory; 16-bit values as float32.
    """
    size, top, left, height, width = window
    source = as_tensor(image).permute(2, 0, 1)[None]  # (1, C, H, W)
    rows, channels = source.shape[2], source.shape[1]
    # Each pass of a separable resize needs the whole axis it resizes, to keep its grid, but of the
    # other axis only the window. Rows outside of the window stay uninitialised and unused.
    first, last = _rows_needed(window, rows)
    needed = source[:, :, first:last]
    if needed.dtype == torch.uint16:
        needed = needed.float()  # torch resizes no 16-bit integers
    wide = _bilinear(needed, (last - first, size[1]))
    tall = torch.empty((1, rows, width, channels), dtype=wide.dtype).permute(0, 3, 1, 2)
    tall[:, :, first:last] = wide[..., left : left + width]
    return _bilinear(tall, (size[0], width))[0, :, top : top + height]


def resized_target(target: Target, window: Window) -> Target:
    """Returns the window of a target (H, W) resized to the nearest pixel.

    Equals resizing the whole target and then cutting, exactly: no new value can appear.
    """
    rows = nearest_index(window.top, window.height, target.shape[0], window.size[0])
    columns = nearest_index(window.left, window.width, target.shape[1], window.size[1])
    return target[rows].take(columns, axis=1)


def nearest_index(start: int, count: int, source: int, resized: int) -> NDArray[np.int64]:
    """Returns the source positions of resized positions start .. start+count-1.

    Position i of a resized axis lies at i (source - 1) / (resized - 1); the nearest source pixel
    is taken, the later pixel at ties. The arithmetic is in integers, so all machines agree.

    >>> nearest_index(0, 6, source=3, resized=6).tolist()
    [0, 0, 1, 1, 2, 2]
    """
    position = np.arange(start, start + count)
    step = max(resized - 1, 1)
    return (2 * position * (source - 1) + step) // (2 * step)


def as_tensor(array: NDArray[np.generic]) -> Tensor:
    """Returns the array as a tensor; copies only read-only and reversed arrays."""
    return torch.from_numpy(np.require(array, requirements=("C", "W")))


def _rows_needed(window: Window, source: int) -> tuple[int, int]:
    step = max(window.size[0] - 1, 1)
    first = window.top * (source - 1) // step
    last = (window.top + window.height - 1) * (source - 1) // step + 1
    # The rounding of torch's kernel may need an extra row on either side.
    return max(first - 1, 0), min(last + 2, source)


def _bilinear(image: Tensor, size: tuple[int, int]) -> Tensor:
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image, size=size, mode="bilinear", align_corners=True)
