"""Test-time views of a picture: scales, flip, padding, windows.

Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation
(arXiv:1802.02611), Sec. 4.1 ("MS", "Flip"), and the authors' evaluation code.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from atrous.errors import AtrousError
from atrous.evaluation.networks import Network
from atrous.images.bands import Pixels
from atrous.predict import upsample

Size = tuple[int, int]  # (height, width)

WINDOW_STEP = 2 / 3  # of the window's side, from one window to the next


@dataclass(frozen=True)
class Views:
    """The views of a picture that the network sees; softmax outputs are averaged over them.

    Args:
        scales: Resizing factors; side d becomes trunc((d - 1) * scale + 1).
        flip: Add the mirrored picture at each scale.
        pad_to: (height, width). Pictures are first padded to this size with the mean pixel, at the
            bottom and right: the authors' protocol. None: no padding.
        window: (height, width) of a sliding window. A larger view is cut into overlapping windows,
            whose logits are averaged. None: no windows.

    Raises:
        AtrousError: A scale or a size that is not positive, or no scale at all.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    pad_to: Size | None = None
    window: Size | None = None

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise AtrousError(
                "E-SCALES", f"scales must be positive numbers, got {list(self.scales)}"
            )
        for name, size in (("pad_to", self.pad_to), ("window", self.window)):
            if size is not None and min(size) < 1:
                raise AtrousError("E-SIZE", f"{name} must be positive, got {size}")

    @property
    def single(self) -> bool:
        """Whether the network sees one view, without windows."""
        return self.scales == (1.0,) and not self.flip and self.window is None


@torch.inference_mode()
def segment(
    network: Network, image: Pixels, views: Views, *, where: object = ""
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Labels a picture.

    Args:
        network: The model.
        image: (H, W, C).
        views: The views that the network sees.
        where: Name of the picture, for errors.

    Returns:
        Labels (H, W) uint8 or uint16, and probabilities (h, w, K) of all classes at every
        `logits_stride`-th pixel in both directions, which calibration needs.

    Raises:
        AtrousError: The picture is larger than `pad_to`.
    """
    height, width = size = image.shape[:2]
    picture = torch.tensor(image).permute(2, 0, 1).float()  # (C, H, W)
    if views.pad_to is not None:
        picture = _pad(picture, views.pad_to, network.mean_pixel, where)
    stride = network.logits_stride
    if views.single:
        coarse = network(picture).permute(1, 2, 0).contiguous().cpu()  # (h, w, K)
        labels = upsample.labels(coarse.numpy(), stride, size)
        sample = coarse[: math.ceil(height / stride), : math.ceil(width / stride)].softmax(-1)
        return labels, sample.numpy()
    probabilities = average_probabilities(network, picture, views)[:, :height, :width]
    labels = probabilities.argmax(0).cpu().numpy()
    dtype = np.uint8 if probabilities.shape[0] <= 256 else np.uint16
    sample = probabilities[:, ::stride, ::stride].permute(1, 2, 0)
    return labels.astype(dtype), sample.cpu().numpy()


def average_probabilities(network: Network, picture: Tensor, views: Views) -> Tensor:
    """Returns the mean softmax over scales and flips, (K, H, W), of a picture (C, H, W)."""
    size: Size = (picture.shape[1], picture.shape[2])
    total: Tensor | None = None
    for scale in views.scales:
        scaled = _resize(picture, (scaled_side(size[0], scale), scaled_side(size[1], scale)))
        for mirrored in (False, True) if views.flip else (False,):
            logits = _full_logits(network, scaled.flip(2) if mirrored else scaled, size, views)
            probabilities = logits.softmax(0)
            probabilities = probabilities.flip(2) if mirrored else probabilities
            total = probabilities if total is None else total.add_(probabilities)
    assert total is not None
    return total / (len(views.scales) * (1 + views.flip))


def scaled_side(side: int, scale: float) -> int:
    """Returns the length of a side at a scale, so that corner pixels map to corner pixels."""
    return max(1, int((side - 1) * scale + 1))


def _full_logits(network: Network, scaled: Tensor, size: Size, views: Views) -> Tensor:
    """Returns the logits of a resized picture (C, H', W') at the original size: (K, *size)."""
    around: Size = (scaled.shape[1], scaled.shape[2])
    window = views.window
    if window is None or (around[0] <= window[0] and around[1] <= window[1]):
        logits, stride = network(scaled), network.logits_stride
    else:
        logits, stride = _slide(network, scaled, window), 1
    return _sample(logits, stride, around, size)


def _slide(network: Network, picture: Tensor, window: Size) -> Tensor:
    """Averages the logits of overlapping windows: (K, H, W) for a picture (C, H, W)."""
    height, width = picture.shape[1:]
    total, seen = torch.zeros(1), torch.zeros(height, width)
    for top in _starts(height, window[0]):
        for left in _starts(width, window[1]):
            part = np.s_[:, top : top + window[0], left : left + window[1]]
            size: Size = (picture[part].shape[1], picture[part].shape[2])
            logits = network(picture[part])
            if total.ndim == 1:
                total = torch.zeros(logits.shape[0], height, width, device=logits.device)
            total[part] += _sample(logits, network.logits_stride, size, size)
            seen[part[1:]] += 1
    return total / seen.to(total.device)


def _starts(length: int, window: int) -> Sequence[int]:
    """Returns the offsets of windows at even distances; the last window ends at the end."""
    if length <= window:
        return (0,)
    step = max(1, int(window * WINDOW_STEP))
    return (*range(0, length - window, step), length - window)


def _pad(picture: Tensor, size: Size, mean_pixel: tuple[float, ...], where: object) -> Tensor:
    height, width = picture.shape[1:]
    if height > size[0] or width > size[1]:
        raise AtrousError(
            "E-PAD-SIZE",
            f"the picture of {height} x {width} does not fit into {size[0]} x {size[1]} "
            "(height x width)",
            where=where,
            fix="pad to a size that holds every picture, or do not pad",
        )
    padded = torch.tensor(mean_pixel)[:, None, None].repeat(1, *size)
    padded[:, :height, :width] = picture
    return padded


def _resize(picture: Tensor, size: Size) -> Tensor:
    """Resizes (C, H, W) bilinearly, corner to corner."""
    if picture.shape[1:] == size:
        return picture
    return F.interpolate(picture[None], size, mode="bilinear", align_corners=True)[0]


def _sample(logits: Tensor, stride: int, around: Size, size: Size) -> Tensor:
    """Samples logits of a resized picture at the pixels of the original, bilinearly.

    Pixel i of the original lies at p = i * (H' - 1) / (H - 1) in the resized picture, and so at
    p / stride in its logits, clamped at the border. Where H' is k * stride + 1, this equals
    TensorFlow's ``align_corners=True``.

    Args:
        logits: (K, h, w).
        stride: Pixels of the resized picture per step of `logits`.
        around: Size of the resized picture (H', W').
        size: Size of the original (H, W).

    Returns:
        (K, H, W).
    """
    rows, columns = (
        _weights(logits.shape[axis + 1], stride, around[axis], size[axis]).to(logits.device)
        for axis in (0, 1)
    )
    return rows @ (logits @ columns.T)


def _weights(length: int, stride: int, around: int, side: int) -> Tensor:
    """Returns the matrix (side, length) of bilinear interpolation along one axis."""
    ratio = (around - 1) / (side - 1) if side > 1 else 0.0
    position = (torch.arange(side, dtype=torch.float64) * ratio / stride).clamp(max=length - 1)
    low = position.floor().long()
    share = (position - low).float()
    pixel = torch.arange(side)
    weights = torch.zeros(side, length)
    weights[pixel, low] = 1 - share
    weights[pixel, (low + 1).clamp(max=length - 1)] += share
    return weights
