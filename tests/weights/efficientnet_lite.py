"""EfficientNet-lite0 as the PyPI package efficientnet-lite-pytorch computes it, by its names.

Written from its source: SAME padding by size, batch norm with epsilon 1e-3, ReLU6.
"""

import torch.nn.functional as F
from torch import nn

# (kernel size, blocks, channels, stride, expansion) of each stage
STAGES = (
    (3, 1, 16, 1, 1), (3, 2, 24, 2, 6), (5, 2, 40, 2, 6), (3, 3, 80, 2, 6), (5, 3, 112, 1, 6),
    (5, 4, 192, 2, 6), (3, 1, 320, 1, 6),
)  # fmt: skip


class SameConv2d(nn.Conv2d):
    def forward(self, x):
        padding = []
        for size in (x.shape[-1], x.shape[-2]):
            kernel, stride = self.kernel_size[0], self.stride[0]
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, padding), self.weight, None, self.stride, 0, 1, self.groups)


def convolution(inputs, outputs, kernel, stride=1, groups=1):
    return SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)


def norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride, expansion):
        super().__init__()
        inner = inputs * expansion
        if expansion != 1:
            self._expand_conv, self._bn0 = convolution(inputs, inner, 1), norm(inner)
        self._depthwise_conv = convolution(inner, inner, kernel, stride, groups=inner)
        self._bn1 = norm(inner)
        self._project_conv, self._bn2 = convolution(inner, outputs, 1), norm(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        y = x
        if hasattr(self, "_expand_conv"):
            y = F.relu6(self._bn0(self._expand_conv(y)))
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    def __init__(self):
        super().__init__()
        self._conv_stem, self._bn0 = convolution(3, 32, 3, 2), norm(32)
        blocks, channels = [], 32
        for kernel, count, outputs, stride, expansion in STAGES:
            for index in range(count):
                blocks.append(Block(channels, outputs, kernel, 1 if index else stride, expansion))
                channels = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = convolution(320, 1280, 1), norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def features(self, x):
        """Returns the last block's output, and that of the last at stride 4."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index == 2:
                low = x
        return x, low
