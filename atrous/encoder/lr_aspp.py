"""Lite reduced ASPP: one pointwise convolution, gated by pooled features.

Searching for MobileNetV3 (arXiv:1905.02244), Sec. 6.4, with the settings of the authors'
released Cityscapes models.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from atrous.layers import HEAD, ConvBN

_POOL_CROP = 769  # pixels of the picture that the pooling kernel covers: the training crop
_POOL_STRIDE_AT_32 = (4, 5)  # stride of the pooling, in steps of features at output stride 32


class LRASPP(nn.Module):
    """Pointwise features multiplied by a coarse gate.

    Only the structure is tested: there was no output of the authors' code to compare with. Pictures
    smaller than the pooling kernel are pooled whole.

    Args:
        in_channels: Channels of the backbone's last features.
        output_stride: Stride of these features.
    """

    channels = 128

    def __init__(self, in_channels: int, *, output_stride: int = 16) -> None:
        super().__init__()
        self.gate = nn.Conv2d(in_channels, self.channels, 1)
        nn.init.xavier_uniform_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)  # type: ignore[arg-type]
        self.pointwise = ConvBN(in_channels, self.channels, 1, HEAD)
        self.set_output_stride(output_stride)

    def set_output_stride(self, output_stride: int) -> None:
        """Sets the pooling kernel so that it covers the same pixels at every stride."""
        self._kernel = (_POOL_CROP - 1) // output_stride + 1
        self._stride = tuple(max(1, step * 32 // output_stride) for step in _POOL_STRIDE_AT_32)

    def forward(self, high_level: Tensor) -> Tensor:
        """Maps (N, C, H/OS, W/OS) to (N, 128, H/OS, W/OS)."""
        size = (high_level.shape[-2], high_level.shape[-1])
        kernel = (min(self._kernel, size[0]), min(self._kernel, size[1]))
        pooled = F.avg_pool2d(high_level, kernel, self._stride)
        gate = F.relu6(self.gate(pooled) + 3) * 0.16667  # the authors' constant
        gate = F.interpolate(gate, size, mode="bilinear", align_corners=True)
        return self.pointwise(high_level) * gate
