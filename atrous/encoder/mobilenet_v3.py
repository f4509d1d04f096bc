"""MobileNetV3 as the authors use it for segmentation.

Searching for MobileNetV3 (arXiv:1905.02244), Tables 1 and 2 and Sec. 6.4. The channels of the last
block are halved. The features come from the last 1x1 convolution before pooling.
"""

from dataclasses import replace
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from atrous.encoder.backbone import BackboneOfUnits, Unit
from atrous.encoder.mobilenet_v2 import make_divisible
from atrous.layers import MOBILENET_V3, ConvBN

MOBILENET_V3_SWISH = replace(MOBILENET_V3, activation=nn.Hardswish)


class Row(NamedTuple):
    """A bottleneck of Table 1 or 2 of the paper."""

    kernel_size: int
    expanded: int
    channels: int
    squeezes: bool
    swish: bool
    stride: int


# fmt: off
LARGE = (
    Row(3,  16,  16, False, False, 1),
    Row(3,  64,  24, False, False, 2),
    Row(3,  72,  24, False, False, 1),
    Row(5,  72,  40, True,  False, 2),
    Row(5, 120,  40, True,  False, 1),
    Row(5, 120,  40, True,  False, 1),
    Row(3, 240,  80, False, True,  2),
    Row(3, 200,  80, False, True,  1),
    Row(3, 184,  80, False, True,  1),
    Row(3, 184,  80, False, True,  1),
    Row(3, 480, 112, True,  True,  1),
    Row(3, 672, 112, True,  True,  1),
    Row(5, 336,  80, True,  True,  2),  # halved from here on
    Row(5, 480,  80, True,  True,  1),
    Row(5, 480,  80, True,  True,  1),
)
SMALL = (
    Row(3,  16,  16, True,  False, 2),
    Row(3,  72,  24, False, False, 2),
    Row(3,  88,  24, False, False, 1),
    Row(5,  96,  40, True,  True,  2),
    Row(5, 240,  40, True,  True,  1),
    Row(5, 240,  40, True,  True,  1),
    Row(5, 120,  48, True,  True,  1),
    Row(5, 144,  48, True,  True,  1),
    Row(5, 144,  48, True,  True,  2),  # halved from here on
    Row(5, 288,  48, True,  True,  1),
    Row(5, 288,  48, True,  True,  1),
)
# fmt: on
# The bottlenecks of each variant, and the channels of its last 1x1 convolution.
VARIANTS: dict[str, tuple[tuple[Row, ...], int]] = {
    "mobilenet_v3_large": (LARGE, 480),
    "mobilenet_v3_small": (SMALL, 288),
}


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate that two 1x1 convolutions compute from the channel means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = make_divisible(channels / 4, 8)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)
        for conv in (self.reduce, self.expand):
            MOBILENET_V3.initialize(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to the same shape."""
        gate = self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True))))  # (N, C, 1, 1)
        return x * (F.relu6(gate + 3) * 0.16667)  # the authors' constant


class InvertedResidualV3(Unit):
    """Expands, filters each channel, gates, projects, and adds the input if the shapes agree."""

    def __init__(self, in_channels: int, row: Row) -> None:
        super().__init__(row.stride, row.expanded)
        convention = MOBILENET_V3_SWISH if row.swish else MOBILENET_V3
        self.expands = row.expanded != in_channels
        if self.expands:
            self.expand = ConvBN(in_channels, row.expanded, 1, convention)
        self.depthwise = ConvBN(
            row.expanded, row.expanded, row.kernel_size, convention, depthwise=True
        )
        self.squeeze_excite = SqueezeExcite(row.expanded) if row.squeezes else nn.Identity()
        self.project = ConvBN(row.expanded, row.channels, 1, convention, activate=False)
        self.same_channels = in_channels == row.channels

    def set_stride_and_rate(self, stride: int, atrous_rate: int) -> None:
        """Sets stride and rate of the depthwise convolution."""
        self.depthwise.conv.set_stride_and_rate(stride, atrous_rate)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the unit's output, and the activated output of its depthwise convolution."""
        expanded = self.expand(x) if self.expands else x
        filtered = self.depthwise(expanded)
        projected = self.project(self.squeeze_excite(filtered))
        # In the authors' code, a unit whose stride became a rate adds its input, so test the stride
        # that the convolution has now.
        adds = self.same_channels and self.depthwise.conv.stride == (1, 1)
        return (projected + x if adds else projected), filtered


class MobileNetV3(BackboneOfUnits):
    """Inverted residuals with squeeze-and-excitation and hard swish.

    The low-level features of a stride are the depthwise convolution's output in the last unit with
    that stride, as in `MobileNetV2`. One strided unit of the small network has as many input as
    output channels. When its stride becomes a rate, it gains a shortcut, so weights trained at
    stride 32 compute another function at stride 16. The authors' code behaves like this too.

    Args:
        variant: ``mobilenet_v3_large`` or ``mobilenet_v3_small``.
        output_stride: 4, 8, 16 or 32.
        in_channels: Channels of the picture.
    """

    def __init__(self, variant: str, *, output_stride: int = 16, in_channels: int = 3) -> None:
        super().__init__()
        rows, self.channels = VARIANTS[variant]
        channels = 16
        self.conv = ConvBN(in_channels, channels, 3, MOBILENET_V3_SWISH, stride=2)
        self.units = nn.ModuleList()
        for row in rows:
            self.units.append(InvertedResidualV3(channels, row))
            channels = row.channels
        self.last = ConvBN(channels, self.channels, 1, MOBILENET_V3_SWISH)
        self.arrange(stem_stride=2)
        self.set_output_stride(output_stride)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """See `Backbone.forward`."""
        x, low_level = self.through_units(self.conv(x))
        return self.last(x), low_level
