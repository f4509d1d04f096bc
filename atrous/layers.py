"""Layers that every network here is built of: atrous (separable) convolution, aligned resizing.

Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation
(arXiv:1802.02611), Sec. 3.1. The authors' networks differ in batch norm, activation and
initialisation; `Convention` holds these per family.

Geometry: feature i at stride s sits at pixel i * s of the picture, for every height and width.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

logger = logging.getLogger(__name__)

Size = tuple[int, int]  # (height, width)
Rate = int | tuple[int, int]  # one rate for both axes, or (height, width)
Anchor = Literal["centre", "start"]


class AtrousConv2d(nn.Conv2d):
    """Convolution whose stride and atrous rate can change on a built network.

    Output i is computed around input i * stride at every size, so an input of H rows gives
    ceil(H / stride) rows. If a stride is removed and all later rates are multiplied by it, every
    output that remains keeps its value. This defines atrous convolution; a test checks it.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd side of the kernel.
        stride: Stride.
        atrous_rate: Spacing of the kernel's taps; one number, or (height, width).
        groups: As in `torch.nn.Conv2d`.
        anchor: The kernel's tap that sits on pixel i * stride. ``centre``: symmetric padding, as
            in the authors' code. ``start``: the first tap, as TensorFlow's SAME padding does at
            stride 2 and even sizes; some imported graphs were trained with it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        atrous_rate: Rate = 1,
        groups: int = 1,
        anchor: Anchor = "centre",
    ) -> None:
        assert kernel_size % 2 == 1
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, groups=groups, bias=False
        )
        self.anchor = anchor
        self.set_stride_and_rate(stride, atrous_rate)

    def set_stride_and_rate(self, stride: int, atrous_rate: Rate) -> None:
        """Changes the geometry; the weights stay."""
        rates = (atrous_rate, atrous_rate) if isinstance(atrous_rate, int) else atrous_rate
        self.stride = (stride, stride)
        self.dilation = rates
        height, width = self._reach()
        self.padding = (height // 2, width // 2) if self.anchor == "centre" else (0, 0)

    def _reach(self) -> Size:
        """Returns the distance from the first tap to the last, as (height, width)."""
        taps = self.kernel_size[0] - 1
        return self.dilation[0] * taps, self.dilation[1] * taps

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        if self.anchor == "start":
            height, width = self._reach()
            input = F.pad(input, (0, width, 0, height))
        return super().forward(input)


def _truncated_normal(std: float) -> Callable[[Tensor], Tensor]:
    """Returns TensorFlow's truncated normal, cut at two standard deviations."""
    return partial(nn.init.trunc_normal_, std=std, a=-2 * std, b=2 * std)


def _variance_scaling(weight: Tensor) -> Tensor:
    """Fills a weight as TF-Slim does by default: variance 2 / fan-in.

    The factor 1.3 restores the variance that the truncation removes.
    """
    fan_in = weight[0].numel()
    return _truncated_normal(math.sqrt(1.3 * 2 / fan_in))(weight)


@dataclass(frozen=True)
class Convention:
    """Batch norm, activation and initialisation of one family of the authors' networks.

    Args:
        epsilon: Epsilon of batch norm.
        momentum: Momentum of batch norm in PyTorch's sense: 1 - the authors' decay.
        initialize: Fills the weight of a convolution in place.
        initialize_depthwise: Fills the weight of a depthwise convolution in place.
        initialize_pointwise: Fills the weight of the 1x1 after a depthwise convolution in place.
        activation: The activation after batch norm.
    """

    epsilon: float
    momentum: float
    initialize: Callable[[Tensor], Tensor]
    initialize_depthwise: Callable[[Tensor], Tensor]
    initialize_pointwise: Callable[[Tensor], Tensor]
    activation: type[nn.ReLU | nn.ReLU6 | nn.Hardswish] = nn.ReLU


_NORMAL_09 = _truncated_normal(0.09)
XCEPTION = Convention(1e-3, 3e-4, _NORMAL_09, _NORMAL_09, _NORMAL_09)
RESNET = Convention(1e-5, 0.05, _variance_scaling, _variance_scaling, _variance_scaling)
MOBILENET_V2 = Convention(1e-3, 3e-3, _NORMAL_09, _NORMAL_09, _NORMAL_09, nn.ReLU6)
MOBILENET_V3 = Convention(1e-3, 3e-3, _NORMAL_09, _NORMAL_09, _NORMAL_09)
HEAD = Convention(  # ASPP and decoder of every network
    1e-5,
    3e-4,
    nn.init.xavier_uniform_,
    _truncated_normal(0.33),
    _truncated_normal(0.06),
)


class ConvBN(nn.Module):
    """Convolution, batch norm and the family's activation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd side of the kernel.
        convention: The family's epsilon, momentum, initialisation and activation.
        stride: Stride.
        depthwise: One filter per channel; `out_channels` must equal `in_channels`.
        pointwise: Initialise as the 1x1 of a separable convolution.
        activate: Whether the activation follows the batch norm.
        anchor: As in `AtrousConv2d`.
        batch_norm: Class of the batch norm layer.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        convention: Convention,
        *,
        stride: int = 1,
        depthwise: bool = False,
        pointwise: bool = False,
        activate: bool = True,
        anchor: Anchor = "centre",
        batch_norm: type[nn.BatchNorm2d] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.conv = AtrousConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            groups=in_channels if depthwise else 1,
            anchor=anchor,
        )
        self.bn = batch_norm(out_channels, eps=convention.epsilon, momentum=convention.momentum)
        self.activation = convention.activation(inplace=True) if activate else nn.Identity()
        if depthwise:
            convention.initialize_depthwise(self.conv.weight)
        elif pointwise:
            convention.initialize_pointwise(self.conv.weight)
        else:
            convention.initialize(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        return self.activation(self.bn(self.conv(x)))


class AtrousSeparableConv(nn.Module):
    """A depthwise 3x3 with an atrous rate, then a pointwise 1x1, each with batch norm (Fig. 3).

    The depthwise convolution filters each channel alone, the pointwise one mixes channels. Together
    they need about a ninth of the multiply-adds of a dense 3x3 (Sec. 3.1). The authors put ReLUs in
    different places in ASPP, decoder and Xception, which takes three switches. The rate is 1 until
    the network sets the one that its output stride asks for.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        convention: The family's epsilon, momentum, initialisation and activation.
        relu_before: ReLU on the input.
        relu_between: ReLU between depthwise and pointwise convolution.
        relu_after: ReLU on the output.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        convention: Convention,
        *,
        relu_before: bool = False,
        relu_between: bool = True,
        relu_after: bool = True,
    ) -> None:
        super().__init__()
        self.relu_before = relu_before
        self.depthwise = ConvBN(
            in_channels, in_channels, 3, convention, depthwise=True, activate=relu_between
        )
        self.pointwise = ConvBN(
            in_channels, out_channels, 1, convention, pointwise=True, activate=relu_after
        )

    def set_stride_and_rate(self, stride: int, atrous_rate: Rate) -> None:
        """Changes the geometry of the depthwise convolution; the weights stay."""
        self.depthwise.conv.set_stride_and_rate(stride, atrous_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        if self.relu_before:
            x = F.relu(x)  # not in place: the caller needs the input for its shortcut
        return self.pointwise(self.depthwise(x))


class PooledBatchNorm2d(nn.BatchNorm2d):
    """Batch norm of image-level features that accepts a batch of one picture.

    One value per channel has no variance, and torch raises an error. This layer then normalises
    with its running statistics, leaves them unchanged, and logs one warning.
    """

    _said = False

    def forward(self, input: Tensor) -> Tensor:
        """Normalises (N, C, 1, 1)."""
        if self.training and input.shape[0] * input.shape[2] * input.shape[3] == 1:
            if not self._said:
                logger.warning(
                    "image pooling sees one value per channel (a batch of one): "
                    "its batch norm uses running statistics"
                )
                self._said = True
            return F.batch_norm(
                input,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                training=False,
                eps=self.eps,
            )
        return super().forward(input)


class Normalize(nn.Module):
    """Normalises pixels as in the training of the backbone: (x - mean) / std.

    Args:
        mean: Mean of each channel, or one for all.
        std: Standard deviation, likewise.
        missing: Whether NaN stands for pixels without a value, which become 0: the mean.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: tuple[float, ...], std: tuple[float, ...], *, missing: bool = False
    ) -> None:
        super().__init__()
        self.missing = missing
        # The architecture stores them, so `state_dict` does not.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Maps (N, C, H, W), integers or floats, to the float type of the network."""
        normalized = (images.to(self.mean.dtype) - self.mean) / self.std
        return normalized.nan_to_num(nan=0.0) if self.missing else normalized


def resize(features: Tensor, from_stride: int, to_stride: int, size: Size) -> Tensor:
    """Samples features of one stride at the positions of another, bilinearly.

    Target i lies at pixel i * to_stride, which is source i * to_stride / from_stride, clamped at
    the border. The authors use TensorFlow's ``align_corners=True`` everywhere. For a picture of
    k * from_stride + 1 pixels both are the same. At other sizes ``align_corners`` would stretch the
    features; this rule does not.

    Args:
        features: (N, C, h, w).
        from_stride: Stride of the features, in pixels of the picture.
        to_stride: Stride of the result. One of the two strides divides the other.
        size: Height and width of the result.

    Returns:
        (N, C, *size).
    """
    if from_stride < to_stride:
        step = to_stride // from_stride
        return features[..., ::step, ::step][..., : size[0], : size[1]]
    height, width = features.shape[-2:]
    factor = from_stride // to_stride
    if factor > 1:
        # With align_corners, (n - 1) * factor + 1 samples lie exactly 1 / factor apart.
        exact = ((height - 1) * factor + 1, (width - 1) * factor + 1)
        features = F.interpolate(features, exact, mode="bilinear", align_corners=True)
    missing = (size[0] - features.shape[-2], size[1] - features.shape[-1])
    if missing != (0, 0):  # targets beyond the last source sample
        features = F.pad(features, (0, missing[1], 0, missing[0]), mode="replicate")
    return features
