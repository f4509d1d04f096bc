"""Depthwise convolution with a fast backward pass on a CPU, where torch's is slow.

With a rate, torch's backward pass reaches about 1 % of the machine's peak. The gradient of the
input is exactly a forward convolution with the flipped kernel. The gradient of the weight is nine
products of shifted slices. At large rates most of the kernel lies in the padding, and sums of
slices beat torch's forward pass too.

With a stride, torch's gradient of the input is slow in bfloat16 alone, where it takes 13 times as
long as the same forward convolution of a gradient with zeros between its rows and columns.
`benchmarks/training.py` measures what both save.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_SLICES_FROM_RATE = 6  # measured: at lower rates torch's forward pass is faster than slices


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, padding: int, rate: int, stride: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.rate, ctx.stride = padding, rate, stride
        return _convolve(x, weight, padding, rate, stride)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        reach = ctx.rate * (weight.shape[-1] - 1)
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = _gradient_of_weight(x, grad, weight, ctx.padding, ctx.rate, ctx.stride)
        if ctx.needs_input_grad[0]:
            rows, columns = (side + 2 * ctx.padding - reach for side in x.shape[-2:])
            grad = _spread(grad, ctx.stride, rows, columns)
            grad_x = _convolve(grad, weight.flip(2, 3), reach - ctx.padding, ctx.rate)
        return grad_x, grad_weight, None, None, None


def depthwise(x: Tensor, weight: Tensor, padding: int, rate: int, stride: int = 1) -> Tensor:
    """Convolves each channel with its own kernel.

    Args:
        x: (N, C, H, W).
        weight: (C, 1, k, k).
        padding: Rows and columns of zeros on each side.
        rate: Spacing of the kernel's taps; 1 with a stride.
        stride: Spacing of the outputs; 1 with a rate.

    Returns:
        (N, C, H', W') in channels_last memory.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    return _Depthwise.apply(x, weight, padding, rate, stride)


def _convolve(x: Tensor, weight: Tensor, padding: int, rate: int, stride: int = 1) -> Tensor:
    if rate < _SLICES_FROM_RATE:
        return F.conv2d(x, weight, None, stride, padding, rate, groups=x.shape[1])
    reach = rate * (weight.shape[-1] - 1)
    height, width = (side + 2 * padding - reach for side in x.shape[-2:])
    y = x.new_zeros((x.shape[0], height, width, x.shape[1]))
    source = x.permute(0, 2, 3, 1)  # (N, H, W, C), contiguous
    for i, j, inside, outside in _taps(source, y, weight, padding, rate):
        y[outside].addcmul_(source[inside], weight[:, 0, i, j])
    return y.permute(0, 3, 1, 2)


def _spread(grad: Tensor, stride: int, rows: int, columns: int) -> Tensor:
    """Puts the gradient of every stride-th output among zeros for the others."""
    if stride == 1:
        return grad
    spread = grad.new_zeros((len(grad), rows, columns, grad.shape[1])).permute(0, 3, 1, 2)
    spread[..., ::stride, ::stride] = grad
    return spread


def _gradient_of_weight(
    x: Tensor, grad: Tensor, weight: Tensor, padding: int, rate: int, stride: int
) -> Tensor:
    """Returns the gradient of the weight from that of the output."""
    if stride > 1:
        padded, spaced = [padding] * 2, [stride] * 2
        wanted = [False, True, False]  # of the gradients of input, weight and bias
        found = torch.ops.aten.convolution_backward(
            grad, x, weight, None, spaced, padded, [1, 1], False, [0, 0], x.shape[1], wanted
        )
        return found[1]
    result = torch.zeros_like(weight)
    source, target = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)  # (N, H, W, C)
    for i, j, inside, outside in _taps(source, target, weight, padding, rate):
        result[:, 0, i, j] = (source[inside] * target[outside]).sum((0, 1, 2))
    return result


_Slices = tuple[slice, slice, slice]


def _taps(
    source: Tensor, target: Tensor, weight: Tensor, padding: int, rate: int
) -> Iterator[tuple[int, int, _Slices, _Slices]]:
    """Yields each tap that overlaps the picture, with its slices of `source` and `target`."""
    for i in range(weight.shape[-2]):
        for j in range(weight.shape[-1]):
            rows = _overlap(i * rate - padding, source.shape[1], target.shape[1])
            columns = _overlap(j * rate - padding, source.shape[2], target.shape[2])
            if rows and columns:
                everything = slice(None)
                yield i, j, (everything, rows[0], columns[0]), (everything, rows[1], columns[1])


def _overlap(offset: int, source: int, target: int) -> tuple[slice, slice] | None:
    """Returns the source and target slices where target t pairs with source t + offset."""
    start, stop = max(0, -offset), min(target, source - offset)
    if stop <= start:
        return None
    return slice(start + offset, stop + offset), slice(start, stop)
