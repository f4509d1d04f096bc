"""Gives the layers of a built network versions that train faster and keep less memory on a CPU.

The network's own files describe the paper and know nothing of this. `install` swaps the classes of
its layers in place: parameters, their names in `state_dict`, and every computed bit stay the same.
`benchmarks/training.py` measures what it saves.
"""

from typing import Any

import torch
from torch import Tensor, nn

from atrous.decoder import DecoderStage
from atrous.layers import AtrousConv2d, AtrousSeparableConv, ConvBN, Size
from atrous.training.cpu.depthwise import depthwise
from atrous.training.cpu.recompute import normalize, reading, rectify


def install(model: nn.Module) -> None:
    """Swaps the classes of a network's layers for the ones in this file, in place.

    Layers of other classes, such as those of timm's networks, stay as they are. Evaluation mode
    and other devices than the CPU compute what they did before.

    Args:
        model: The network; installing twice changes nothing more.
    """
    for module in model.modules():
        module.__class__ = _FAST.get(type(module), type(module))


class _Conv2d(nn.Conv2d):
    """Convolution for which autograd keeps the recipe of its input where there is one."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        with reading(input):
            return super()._conv_forward(input, weight, bias)


class _AtrousConv2d(AtrousConv2d):
    """Atrous convolution with a backward pass of its own where torch's is slow."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        with reading(input):
            if self._trains_slowly(input):
                return depthwise(
                    input, weight, int(self.padding[0]), self.dilation[0], self.stride[0]
                )
            return super()._conv_forward(input, weight, bias)

    def _trains_slowly(self, input: Tensor) -> bool:
        """Returns whether torch's backward pass is slow here and `depthwise` can replace it."""
        rate, stride = self.dilation[0], self.stride[0]
        return (
            self.training
            and torch.is_grad_enabled()
            and input.device.type == "cpu"
            and self.groups == self.in_channels == self.out_channels > 1
            and self.dilation == (rate, rate)
            and self.kernel_size[0] == self.kernel_size[1]
            and self.bias is None
            and ((rate > 1 and stride == 1) or (rate == 1 and stride > 1 and _in_bf16()))
        )


def _in_bf16() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16


class _ConvBN(ConvBN):
    """Convolution whose batch norm and activation are recomputed in the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        if not self.training:
            return super().forward(x)
        return normalize(self.conv(x), self.bn, self.activation)


class _AtrousSeparableConv(AtrousSeparableConv):
    """Separable convolution whose leading ReLU is recomputed in the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        if self.relu_before:
            x = rectify(x)
        return self.pointwise(self.depthwise(x))


class _DecoderStage(DecoderStage):
    """Decoder stage whose two inputs get gradients of their own.

    The gradient of a concatenation comes in slices of one tensor. For a slice, torch's gradient of
    the upsampling takes three to six times as long as for a tensor.
    """

    def resized(
        self, decoded: Tensor, low_level: Tensor, strides: tuple[int, int, int], size: Size
    ) -> tuple[Tensor, Tensor]:
        """Returns both inputs at the stride of the result, the low-level features reduced."""
        resized = super().resized(decoded, low_level, strides, size)
        for features in resized:
            if features.requires_grad and features.device.type == "cpu":
                features.register_hook(_whole)  # type: ignore[no-untyped-call]
        return resized


def _whole(grad: Tensor) -> Tensor:
    return grad.contiguous(memory_format=torch.channels_last)


class _MaxPool2d(nn.MaxPool2d):
    """Max pooling for which autograd keeps the recipe of its input where there is one."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, C, H, W) to the pooled size."""
        with reading(input):
            return super().forward(input)


class _ClampInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        y = x.clamp_(0, 6)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, y, 0, 6)  # 0 where y is 0 or 6


class _ReLU6(nn.ReLU6):
    """ReLU6 that computes its gradient from its output, as torch's ReLU does.

    torch's ReLU6 saves a copy of its input even in place: one more tensor to write and to keep in
    every layer.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Clamps to 0..6, in place if asked."""
        if self.inplace and input.requires_grad and torch.is_grad_enabled():
            return _ClampInPlace.apply(input)
        return super().forward(input)


_FAST: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: _Conv2d,
    nn.MaxPool2d: _MaxPool2d,
    nn.ReLU6: _ReLU6,
    AtrousConv2d: _AtrousConv2d,
    AtrousSeparableConv: _AtrousSeparableConv,
    ConvBN: _ConvBN,
    DecoderStage: _DecoderStage,
}
