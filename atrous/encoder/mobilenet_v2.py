"""MobileNetV2 as the authors use it for segmentation.

MobileNetV2: Inverted Residuals and Linear Bottlenecks (arXiv:1801.04381), Sec. 6.3 and Table 7.
The features are the 320 channels of the last bottleneck. The classifier's 1280-channel convolution
is left out.
"""

from typing import NamedTuple

from torch import Tensor, nn

from atrous.encoder.backbone import BackboneOfUnits, Unit
from atrous.layers import MOBILENET_V2, Anchor, ConvBN


class Row(NamedTuple):
    """A row of Table 2 of the paper."""

    expansion: int
    channels: int
    units: int
    stride: int  # of the first unit


TABLE_2 = (
    Row(1, 16, 1, 1),
    Row(6, 24, 2, 2),
    Row(6, 32, 3, 2),
    Row(6, 64, 4, 2),
    Row(6, 96, 3, 1),
    Row(6, 160, 3, 2),
    Row(6, 320, 1, 1),
)


def make_divisible(value: float, divisor: int) -> int:
    """Rounds to a multiple of `divisor`, down by at most a tenth (the authors' rule)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


class InvertedResidual(Unit):
    """Expands, filters each channel, projects linearly, and adds the input if the shapes agree."""

    def __init__(
        self, in_channels: int, out_channels: int, *, expansion: int, stride: int, anchor: Anchor
    ) -> None:
        expanded = make_divisible(in_channels * expansion, 8) if expansion > 1 else in_channels
        super().__init__(stride, expanded)
        self.expands = expansion > 1
        if self.expands:
            self.expand = ConvBN(in_channels, expanded, 1, MOBILENET_V2)
        self.depthwise = ConvBN(expanded, expanded, 3, MOBILENET_V2, depthwise=True, anchor=anchor)
        self.project = ConvBN(expanded, out_channels, 1, MOBILENET_V2, activate=False)
        self.adds = stride == 1 and in_channels == out_channels

    def set_stride_and_rate(self, stride: int, atrous_rate: int) -> None:
        """Sets stride and rate of the depthwise convolution."""
        self.depthwise.conv.set_stride_and_rate(stride, atrous_rate)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the unit's output, and the activated output of its depthwise convolution."""
        expanded = self.expand(x) if self.expands else x
        filtered = self.depthwise(expanded)
        projected = self.project(filtered)
        return (projected + x if self.adds else projected), filtered


class MobileNetV2(BackboneOfUnits):
    """Seventeen inverted residuals: 320 channels, and 144 low-level channels at stride 4.

    The low-level features of a stride are the depthwise convolution's output in the last unit with
    that stride: layer 4 at stride 4, layer 7 at 8, layer 14 at 16 (the authors' numbering).

    Args:
        output_stride: 4, 8, 16 or 32.
        depth_multiplier: Scales every number of channels. As in the authors' segmentation
            networks, scaled channels are not rounded to multiples of 8.
        in_channels: Channels of the picture.
        one_sided_padding: Strided convolutions up to this stride have the ``start`` anchor of
            `AtrousConv2d`, as in TensorFlow graphs built for an even size at this output stride.
            0: all are centred, as with the odd sizes that the authors train at.
    """

    def __init__(
        self,
        *,
        output_stride: int = 16,
        depth_multiplier: float = 1.0,
        in_channels: int = 3,
        one_sided_padding: int = 0,
    ) -> None:
        super().__init__()

        def anchor(reached_stride: int) -> Anchor:
            return "start" if reached_stride <= one_sided_padding else "centre"

        divisor = 8 if depth_multiplier == 1.0 else 1
        channels = make_divisible(32 * depth_multiplier, divisor)
        self.conv = ConvBN(in_channels, channels, 3, MOBILENET_V2, stride=2, anchor=anchor(2))
        self.units = nn.ModuleList()
        reached = 2
        for row in TABLE_2:
            for index in range(row.units):
                stride = row.stride if index == 0 else 1
                reached *= stride
                out_channels = make_divisible(row.channels * depth_multiplier, divisor)
                self.units.append(
                    InvertedResidual(
                        channels,
                        out_channels,
                        expansion=row.expansion,
                        stride=stride,
                        anchor=anchor(reached) if stride > 1 else "centre",
                    )
                )
                channels = out_channels
        self.channels = channels
        self.arrange(stem_stride=2)
        self.set_output_stride(output_stride)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """See `Backbone.forward`."""
        return self.through_units(self.conv(x))  # the stem's features are (N, 32, H/2, W/2)
