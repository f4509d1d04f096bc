"""Modified aligned Xception-41, -65 and -71.

Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation
(arXiv:1802.02611), Sec. 3.2 and Fig. 4. It is deeper than Xception, has strided depthwise
separable convolutions in the place of max pooling, and batch norm after each 3x3 depthwise
convolution.

The paper's text puts a ReLU after that batch norm. The authors' released code and weights have
that ReLU in the last block alone. The code is the default; `relu_after_depthwise` is the text.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn

from atrous.encoder.backbone import BackboneOfUnits, Unit
from atrous.layers import XCEPTION, AtrousSeparableConv, ConvBN

Skip = Literal["conv", "sum", "none"]


class Block(NamedTuple):
    """A row of the authors' table: `units` modules of three separable convolutions each."""

    depths: tuple[int, int, int]
    skip: Skip
    stride: int  # of the third convolution
    units: int = 1
    relu_inside: bool = False  # ReLUs within and after the separable convolutions, not before them


_ENTRY_41_65 = (
    Block((128, 128, 128), "conv", 2),
    Block((256, 256, 256), "conv", 2),
    Block((728, 728, 728), "conv", 2),
)
_ENTRY_71 = (
    Block((128, 128, 128), "conv", 2),
    Block((256, 256, 256), "conv", 1),
    Block((256, 256, 256), "conv", 2),
    Block((728, 728, 728), "conv", 1),
    Block((728, 728, 728), "conv", 2),
)
# The entry flow of each variant, and the number of units in its middle flow.
VARIANTS: dict[str, tuple[tuple[Block, ...], int]] = {
    "xception41": (_ENTRY_41_65, 8),
    "xception65": (_ENTRY_41_65, 16),
    "xception71": (_ENTRY_71, 16),
}
_EXIT = (
    Block((728, 1024, 1024), "conv", 2),
    Block((1536, 1536, 2048), "none", 1, relu_inside=True),
)


class XceptionModule(Unit):
    """Three separable convolutions, plus a shortcut.

    The shortcut starts before the ReLU of the first convolution. `multi_grid` multiplies the rates
    of the three.
    """

    def __init__(
        self,
        in_channels: int,
        block: Block,
        *,
        relu_after_depthwise: bool,
        multi_grid: Sequence[int],
    ) -> None:
        first, second, third = block.depths
        super().__init__(block.stride, second)
        self.multi_grid = multi_grid
        separable = [
            AtrousSeparableConv(
                channels_in,
                channels_out,
                XCEPTION,
                relu_before=not block.relu_inside,
                relu_between=block.relu_inside or relu_after_depthwise,
                relu_after=block.relu_inside,
            )
            for channels_in, channels_out in (
                (in_channels, first),
                (first, second),
                (second, third),
            )
        ]
        self.separable1, self.separable2, self.separable3 = separable
        self.skip = block.skip
        if block.skip == "conv":
            self.shortcut = ConvBN(in_channels, third, 1, XCEPTION, activate=False)

    def set_stride_and_rate(self, stride: int, atrous_rate: int) -> None:
        """Sets the stride of the third convolution and the shortcut, and the rates of all three."""
        self.separable1.set_stride_and_rate(1, atrous_rate * self.multi_grid[0])
        self.separable2.set_stride_and_rate(1, atrous_rate * self.multi_grid[1])
        self.separable3.set_stride_and_rate(stride, atrous_rate * self.multi_grid[2])
        if self.skip == "conv":
            self.shortcut.conv.set_stride_and_rate(stride, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the module's output, and its features before striding and without ReLU."""
        before_striding = self.separable2(self.separable1(x))
        residual = self.separable3(before_striding)
        if self.skip == "conv":
            residual = residual + self.shortcut(x)
        elif self.skip == "sum":
            residual = residual + x
        return residual, before_striding


class Xception(BackboneOfUnits):
    """Entry, middle and exit flow: 2048 channels, and 256 low-level channels at stride 4.

    Low-level features are those before a block's stride, without ReLU: entry_flow/block2 (block3 of
    Xception-71) at stride 4, the last entry block at 8, exit_flow/block1 at 16.

    Args:
        variant: ``xception41``, ``xception65`` or ``xception71``.
        output_stride: 4, 8, 16 or 32.
        multi_grid: Rates within the last block. Other rates than ones did not help in the paper.
        in_channels: Channels of the picture.
        relu_after_depthwise: ReLUs as in the paper's Fig. 4, which the released code does not have.
    """

    channels = 2048

    def __init__(
        self,
        variant: str,
        *,
        output_stride: int = 16,
        multi_grid: Sequence[int] = (1, 1, 1),
        in_channels: int = 3,
        relu_after_depthwise: bool = False,
    ) -> None:
        super().__init__()
        entry, middle_units = VARIANTS[variant]
        self.multi_grid = tuple(multi_grid)
        self.conv1_1 = ConvBN(in_channels, 32, 3, XCEPTION, stride=2)
        self.conv1_2 = ConvBN(32, 64, 3, XCEPTION)
        channels = 64
        flows = []
        middle = Block((728, 728, 728), "sum", 1)
        for blocks in (entry, (middle,) * middle_units, _EXIT):
            modules = nn.ModuleList()
            for block in blocks:
                modules.append(
                    XceptionModule(
                        channels,
                        block,
                        relu_after_depthwise=relu_after_depthwise,
                        multi_grid=self.multi_grid if block is _EXIT[-1] else (1, 1, 1),
                    )
                )
                channels = block.depths[-1]
            flows.append(modules)
        self.entry_flow, self.middle_flow, self.exit_flow = flows
        # The block that ends a stride gives the low-level features, from before its striding.
        self.arrange(stem_stride=2, further=1)
        self.set_output_stride(output_stride)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """See `Backbone.forward`."""
        x = self.conv1_2(self.conv1_1(x))  # (N, 64, H/2, W/2)
        return self.through_units(x)
