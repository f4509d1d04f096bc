"""The authors' ResNet-50 and -101, which differ from torchvision's.

Rethinking Atrous Convolution for Semantic Image Segmentation (arXiv:1706.05587), Sec. 3, with the
geometry of the authors' code: the last unit of a block has the stride, the last block has
multi-grid rates, and the "beta" stem has three 3x3 convolutions in place of one 7x7.
"""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from atrous.encoder.backbone import BackboneOfUnits, Unit
from atrous.layers import RESNET, ConvBN

Stem = Literal["beta", "plain"]

UNITS: dict[str, tuple[int, int, int, int]] = {
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}


class Bottleneck(Unit):
    """1x1, 3x3 and 1x1 convolutions, plus a shortcut, then ReLU (ResNet version 1).

    `grid_rate` multiplies every rate that is set.
    """

    def __init__(self, in_channels: int, base: int, *, stride: int, grid_rate: int) -> None:
        super().__init__(stride, 4 * base)
        self.grid_rate = grid_rate
        self.conv1 = ConvBN(in_channels, base, 1, RESNET)
        self.conv2 = ConvBN(base, base, 3, RESNET)
        self.conv3 = ConvBN(base, 4 * base, 1, RESNET, activate=False)
        self.projects = in_channels != 4 * base
        if self.projects:
            self.shortcut = ConvBN(in_channels, 4 * base, 1, RESNET, activate=False)

    def set_stride_and_rate(self, stride: int, atrous_rate: int) -> None:
        """Sets stride and rate of the 3x3 convolution, and the stride of the shortcut."""
        self.conv2.conv.set_stride_and_rate(stride, atrous_rate * self.grid_rate)
        if self.projects:
            self.shortcut.conv.set_stride_and_rate(stride, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the unit's output, and its residual branch before the sum and the ReLU."""
        residual = self.conv3(self.conv2(self.conv1(x)))
        stride = self.conv2.conv.stride[0]
        # An identity shortcut past a stride is subsampled, not projected.
        shortcut = self.shortcut(x) if self.projects else x[..., ::stride, ::stride]
        return F.relu(residual + shortcut, inplace=True), residual


class ResNet(BackboneOfUnits):
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
        for index, units in enumerate(UNITS[variant]):
            base, is_last = 64 * 2**index, index == 3
            block = nn.ModuleList()
            for unit in range(units):
                stride = 2 if unit == units - 1 and not is_last else 1
                grid_rate = self.multi_grid[unit] if is_last else 1
                block.append(Bottleneck(channels, base, stride=stride, grid_rate=grid_rate))
                channels = 4 * base
            self.blocks.append(block)
        self.arrange(stem_stride=4)
        self.set_output_stride(output_stride)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """See `Backbone.forward`."""
        x = self.stem(x)  # (N, 128, H/2, W/2)
        return self.through_units(self.pool(x))  # from (N, 128, H/4, W/4)
