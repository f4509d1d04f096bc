"""Slow and obvious implementations: the other side of comparisons."""

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def convolve(image: Array, kernel: Array, *, stride: int = 1, rate: int = 1) -> Array:
    """Convolves (H, W) with (k, k): the kernel's centre on pixel i * stride, zeros outside."""
    height, width = image.shape
    middle = kernel.shape[0] // 2
    result = np.zeros((-(-height // stride), -(-width // stride)))
    for i, j in np.ndindex(*result.shape):
        for a, b in np.ndindex(*kernel.shape):
            y, x = i * stride + (a - middle) * rate, j * stride + (b - middle) * rate
            if 0 <= y < height and 0 <= x < width:
                result[i, j] += kernel[a, b] * image[y, x]
    return result


def upsample(coarse: Array, stride: int, size: tuple[int, int]) -> Array:
    """Interpolates (h, w, K) at source = target / stride, clamped at the border, in float64."""
    coarse = coarse.astype(np.float64)
    height, width = coarse.shape[:2]
    result = np.empty((*size, coarse.shape[2]))
    for i, j in product(range(size[0]), range(size[1])):
        y, x = min(i / stride, height - 1), min(j / stride, width - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        down, across = y - top, x - left
        upper = coarse[top, left] * (1 - across) + coarse[top, right] * across
        lower = coarse[bottom, left] * (1 - across) + coarse[bottom, right] * across
        result[i, j] = upper * (1 - down) + lower * down
    return result


def variable_value(name: str, shape: list[int]) -> Array:
    """Draws a plausible value for one of the authors' variables, from its name alone."""
    seed = int.from_bytes(name.encode()[-4:], "big")
    draw = np.random.default_rng(seed + len(name))
    leaf = name.split("/")[-1]
    if leaf in ("gamma", "moving_variance"):
        return draw.uniform(0.6, 1.4, shape).astype(np.float32)
    if leaf in ("beta", "moving_mean", "biases"):
        return draw.normal(0, 0.1, shape).astype(np.float32)
    fan_in = np.prod(shape[:3]) if leaf == "weights" else 9
    return (draw.normal(0, 1, shape) * np.sqrt(2 / fan_in)).astype(np.float32)


def run_lengths(pixels: Array) -> list[int]:
    """Counts runs of equal pixels, alternately off and on, beginning with off."""
    counts, state = [0], False
    for pixel in pixels.ravel().tolist():
        if bool(pixel) != state:
            counts.append(0)
            state = bool(pixel)
        counts[-1] += 1
    return counts


def packed(counts: list[int]) -> str:
    """Packs run lengths as COCO does: see the format's description in `atrous.predict.rle`."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            group, value = value & 31, value >> 5
            last = value == (-1 if group & 16 else 0)
            text += chr(48 + (group if last else group | 32))
            if last:
                break
    return text


def is_inside(outline: Array, x: float, y: float) -> bool:
    """Says whether a ray from a point crosses an odd number of edges of a polygon (N, 2)."""
    inside = False
    for (x1, y1), (x2, y2) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
            inside = not inside
    return inside


def distance_to_outline(outline: Array, x: float, y: float) -> float:
    """Returns the distance of a point from the nearest edge of a polygon (N, 2)."""
    distances = []
    for start, end in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        along, point = end - start, np.array([x, y]) - start
        length = float(along @ along)
        share = min(max(float(point @ along) / length, 0), 1) if length else 0
        distances.append(float(np.hypot(*(point - share * along))))
    return min(distances)
