"""Atrous spatial pyramid pooling with image-level features.

Rethinking Atrous Convolution for Semantic Image Segmentation (arXiv:1706.05587), Sec. 3.3, with
the separable branches of arXiv:1802.02611, Sec. 3.2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atrous.encoder.strides import RATES_AT_STRIDE_16, rates_at
from atrous.layers import HEAD, AtrousConv2d, AtrousSeparableConv, ConvBN, PooledBatchNorm2d


class ASPP(nn.Module):
    """Parallel branches at several rates, concatenated and projected to 256 channels.

    The concatenation has the authors' order: image pooling, pointwise, atrous branches. In the
    branches a ReLU follows both the depthwise and the pointwise convolution.

    Args:
        in_channels: Channels of the backbone's last features.
        output_stride: Stride of these features.
        rates_at_16: Rates that the 3x3 branches have at stride 16; the rates at other strides
            follow from them. (): no such branches, as in the released MobileNetV2.
        separable: Whether the 3x3 branches are depthwise separable.
        image_pooling: Whether to add the branch of the whole picture's mean.
        pooling_stride: Stride of the positions that image pooling averages, a multiple of
            `output_stride`; None: all positions. With more positions than in training the mean
            changes a little, which changes the class of some pictures.
        dropout: Dropout of single values after the projection; the authors use 0.1.
    """

    channels = 256

    def __init__(
        self,
        in_channels: int,
        *,
        output_stride: int = 16,
        rates_at_16: Sequence[float] = RATES_AT_STRIDE_16,
        separable: bool = True,
        image_pooling: bool = True,
        pooling_stride: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        channels = self.channels
        self._rates_at_16 = tuple(rates_at_16)
        self._pooling_stride = pooling_stride
        self.image_pooling = (
            ConvBN(in_channels, channels, 1, HEAD, batch_norm=PooledBatchNorm2d)
            if image_pooling
            else None
        )
        self.pointwise = ConvBN(in_channels, channels, 1, HEAD)
        self.atrous = nn.ModuleList(
            AtrousSeparableConv(in_channels, channels, HEAD)
            if separable
            else ConvBN(in_channels, channels, 3, HEAD)
            for _ in self._rates_at_16
        )
        num_branches = int(image_pooling) + 1 + len(self.atrous)
        self.project = ConvBN(num_branches * channels, channels, 1, HEAD)
        self.dropout = nn.Dropout(dropout)
        self.set_output_stride(output_stride)

    def set_output_stride(self, output_stride: int) -> None:
        """Sets the rates for a stride: half the stride doubles the given rates."""
        self.pooling_step = max(1, (self._pooling_stride or output_stride) // output_stride)
        self.atrous_rates = rates_at(self._rates_at_16, output_stride)
        for branch, rate in zip(self.atrous, self.atrous_rates, strict=True):
            conv = branch if isinstance(branch, AtrousSeparableConv) else branch.conv
            assert isinstance(conv, (AtrousSeparableConv, AtrousConv2d))
            conv.set_stride_and_rate(1, rate)

    def forward(self, high_level: Tensor) -> Tensor:
        """Maps (N, C, H/OS, W/OS) to (N, 256, H/OS, W/OS)."""
        branches = []
        if self.image_pooling is not None:
            step = self.pooling_step
            averaged = high_level if step == 1 else high_level[..., ::step, ::step]
            pooled = averaged.mean((2, 3), keepdim=True)
            pooled = self.image_pooling(pooled)  # (N, 256, 1, 1)
            branches.append(pooled.expand(-1, -1, *high_level.shape[-2:]))
        branches.append(self.pointwise(high_level))
        branches += [branch(high_level) for branch in self.atrous]
        return self.dropout(self.project(torch.cat(branches, dim=1)))
