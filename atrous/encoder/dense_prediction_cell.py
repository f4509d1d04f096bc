"""Dense prediction cell, which replaces ASPP in the authors' Xception-71 Cityscapes models.

Searching for Efficient Multi-Scale Architectures for Dense Image Prediction (arXiv:1809.04184):
five separable 3x3 convolutions, most with unequal rates for height and width. The first reads the
features, each of the other four reads an earlier one.
"""

import torch
from torch import Tensor, nn

from atrous.layers import HEAD, AtrousSeparableConv, ConvBN

# (height, width) rates at output stride 16, and the branch that each reads (-1: the features).
BRANCHES = (((1, 6), -1), ((18, 15), 0), ((6, 3), 1), ((1, 1), 0), ((6, 21), 0))


class DensePredictionCell(nn.Module):
    """Five atrous branches, concatenated and projected to 256 channels.

    Only the structure is tested: there was no output of the authors' code to compare with.

    Args:
        in_channels: Channels of the backbone's last features.
        output_stride: Stride of these features.
        dropout: Dropout before the projection; the authors use 0.1.
    """

    channels = 256

    def __init__(self, in_channels: int, *, output_stride: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            AtrousSeparableConv(in_channels if source < 0 else self.channels, self.channels, HEAD)
            for _, source in BRANCHES
        )
        self.dropout = nn.Dropout(dropout)
        self.merge = ConvBN(len(BRANCHES) * self.channels, self.channels, 1, HEAD)
        self.set_output_stride(output_stride)

    def set_output_stride(self, output_stride: int) -> None:
        """Sets the rates for a stride: half the stride doubles the rates."""
        for branch, ((height, width), _) in zip(self.branches, BRANCHES, strict=True):
            assert isinstance(branch, AtrousSeparableConv)
            rate = (max(1, height * 16 // output_stride), max(1, width * 16 // output_stride))
            branch.set_stride_and_rate(1, rate)

    def forward(self, high_level: Tensor) -> Tensor:
        """Maps (N, C, H/OS, W/OS) to (N, 256, H/OS, W/OS)."""
        views: list[Tensor] = []
        for branch, (_, source) in zip(self.branches, BRANCHES, strict=True):
            views.append(branch(high_level if source < 0 else views[source]))
        return self.merge(self.dropout(torch.cat(views, dim=1)))
