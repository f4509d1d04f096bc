"""The authors' ResNet-50 and -101, which differ from torchvision's.

Rethinking Atrous Convolution for Semantic Image Segmentation (arXiv:1706.05587), Sec. 3, with the
geometry of the authors' code: the last unit of a block has the stride, the last block has
multi-grid rates, and the "beta" stem has three 3x3 convolutions in place of one 7x7.
"""

from collections.abc import Sequence
from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from atrous.encoder.backbone import Backbone
from atrous.encoder.strides import atrous_schedule
from atrous.layers import RESNET, ConvBN

Stem = Literal["beta", "plain"]

UNITS: dict[str, tuple[int, int, int, int]] = {
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, plus a shortcut, then ReLU (ResNet version 1)."""

    def __init__(self, in_channels: int, base: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(in_channels, base, 1, RESNET)
        self.conv2 = ConvBN(base, base, 3, RESNET)
        self.conv3 = ConvBN(base, 4 * base, 1, RESNET, activate=False)
        self.projects = in_channels != 4 * base
        if self.projects:
            self.shortcut = ConvBN(in_channels, 4 * base, 1, RESNET, activate=False)

    def set_stride_and_rate(self, stride: int, atrous_rate: int) -> None:
        """Sets stride and rate of the 3x3 convolution, and the stride of the shortcut."""
        self.conv2.conv.set_stride_and_rate(stride, atrous_rate)
        if self.projects:
            self.shortcut.conv.set_stride_and_rate(stride, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the unit's output, and its residual branch before the sum and the ReLU."""
        residual = self.conv3(self.conv2(self.conv1(x)))
        stride = self.conv2.conv.stride[0]
        # An identity shortcut past a stride is subsampled, not projected.
        shortcut = self.shortcut(x) if self.projects else x[..., ::stride, ::stride]
        return F.relu(residual + shortcut, inplace=True), residual


class ResNet(Backbone):
    """Stem and four blocks of bottlenecks: 2048 channels, and 256 low-level channels at stride 4.

    Low-level features are the residual branch of the unit before a striding one, before the sum and
    without ReLU: block1/unit_2 at stride 4, then in block2 at 8 and in block3 at 16.

    Args:
        variant: ``resnet50`` or ``resnet101``.
        output_stride: 4, 8, 16 or 32.
        multi_grid: Rates of the units in the last block; the block's own rate multiplies them.
        in_channels: Channels of the picture.
        stem: ``beta``, three 3x3 convolutions (the paper's networks), or ``plain``, one 7x7.
    """

    channels = 2048
    low_level_channels = {4: 256, 8: 512, 16: 1024}  # noqa: RUF012

    def __init__(
        self,
        variant: str,
        *,
        output_stride: int = 16,
        multi_grid: Sequence[int] = (1, 2, 4),
        in_channels: int = 3,
        stem: Stem = "beta",
    ) -> None:
        super().__init__()
        self.multi_grid = tuple(multi_grid)
        if stem == "beta":
            channels = 128
            self.stem = nn.Sequential(
                ConvBN(in_channels, 64, 3, RESNET, stride=2),
                ConvBN(64, 64, 3, RESNET),
                ConvBN(64, channels, 3, RESNET),
            )
        else:
            channels = 64
            self.stem = nn.Sequential(ConvBN(in_channels, channels, 7, RESNET, stride=2))
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.blocks = nn.ModuleList()
        self._nominal_strides = []
        for index, units in enumerate(UNITS[variant]):
            base = 64 * 2**index
            block = nn.ModuleList()
            for _ in range(units):
                block.append(Bottleneck(channels, base))
                channels = 4 * base
            self.blocks.append(block)
            self._nominal_strides += [1] * (units - 1) + [1 if index == 3 else 2]
        self.set_output_stride(output_stride)

    def _units_in_order(self) -> list[Bottleneck]:
        blocks = cast("list[nn.ModuleList]", list(self.blocks))
        return cast("list[Bottleneck]", [unit for block in blocks for unit in block])

    def set_output_stride(self, output_stride: int) -> None:
        """See `Backbone.set_output_stride`."""
        schedule = atrous_schedule(self._nominal_strides, output_stride, initial_stride=4)
        units = self._units_in_order()
        grid = [1] * (len(units) - len(self.multi_grid)) + list(self.multi_grid)
        for unit, (stride, rate), unit_rate in zip(units, schedule, grid, strict=True):
            unit.set_stride_and_rate(stride, rate * unit_rate)
        self.output_stride = output_stride

    def forward(self, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """See `Backbone.forward`."""
        x = self.stem(x)  # (N, 128, H/2, W/2)
        x = self.pool(x)  # (N, 128, H/4, W/4)
        low_level: dict[int, Tensor] = {}
        stride, residual = 4, x
        for unit, nominal in zip(self._units_in_order(), self._nominal_strides, strict=True):
            if nominal > 1:
                low_level[stride] = residual  # of the unit before the striding one
                stride *= nominal
            x, residual = unit(x)
        return x, low_level
