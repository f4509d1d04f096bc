"""Batch norm in training: how fast its statistics move, where they start, several processes."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from atrous.errors import AtrousError
from atrous.layers import PooledBatchNorm2d
from atrous.model import evaluating

BatchNorm = nn.modules.batchnorm._BatchNorm


def batch_norms(model: nn.Module) -> Iterator[tuple[str, BatchNorm]]:
    """Yields every batch norm of a network with its path."""
    for path, module in model.named_modules():
        if isinstance(module, BatchNorm):
            yield path, module


def set_momentum(model: nn.Module, momentum: float) -> None:
    """Sets the weight of a new batch in the running statistics (1 - the authors' decay).

    With the paper's 0.0003 the statistics forget their start after some ten thousand steps. A run
    of n steps needs about 10 / n or more.
    """
    for _, module in batch_norms(model):
        module.momentum = momentum


@torch.no_grad()
def restore_folded(model: nn.Module, batches: Iterable[Tensor]) -> list[str]:
    """Gives batch norms that were folded into their convolutions statistics from data.

    Weights exported for inference have each batch norm folded into its convolution, which leaves
    the identity plus an offset. Training needs statistics. The mean m and the standard deviation s
    of the layer's input are measured on data, and scale and offset compensate for them, so that
    the network computes what it did before: ((x - m) / s) * s + (offset + m). A scale that was left
    beside the convolution stays in both.

    Where several processes train, every one must call this with its own batches. The moments are
    summed over all of them, so that all processes have the same state afterwards.

    Args:
        model: The network. It runs in evaluation mode; its mode is set back afterwards.
        batches: Images (N, 3, H, W) with several values per channel in all.

    Returns:
        The paths of the restored layers; empty if no batch norm was folded.
    """
    folded = {path: module for path, module in batch_norms(model) if _is_folded(module)}
    if not folded:
        return []
    moments = {path: _Moments(module.num_features) for path, module in folded.items()}
    with evaluating(model), ExitStack() as hooks:
        for path, module in folded.items():
            hook = module.register_forward_pre_hook(
                lambda _, inputs, path=path: moments[path].add(inputs[0])
            )
            hooks.enter_context(hook)
        for images in batches:
            model(images)
    for path, module in folded.items():
        mean, variance = moments[path].over_processes(module.weight.device)
        assert module.running_mean is not None
        assert module.running_var is not None
        module.running_mean.copy_(mean)
        module.running_var.copy_(variance)
        module.bias.add_(module.weight * mean)
        module.weight.mul_((variance + module.eps).sqrt())
    return list(folded)


def _is_folded(module: BatchNorm) -> bool:
    mean, variance = module.running_mean, module.running_var
    assert mean is not None
    assert variance is not None
    identity = torch.full_like(variance, 1 - module.eps)
    return not mean.any() and torch.equal(variance, identity)


class _Moments:
    """Mean and variance per channel over several batches, in float64."""

    def __init__(self, channels: int) -> None:
        self.sums = torch.zeros(3, channels, dtype=torch.float64)  # of 1, x and x**2

    def add(self, x: Tensor) -> None:
        values = x.detach().double().transpose(0, 1).flatten(1)  # (C, values)
        count = torch.full_like(values[:, 0], values.shape[1])
        self.sums += torch.stack([count, values.sum(1), (values**2).sum(1)]).cpu()

    def over_processes(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns mean and variance over the batches of all processes."""
        count, total, square = _all_reduce(self.sums.to(device))  # NCCL sums on the GPU alone
        mean = total / count
        return mean, (square / count - mean**2).clamp(min=0)


def dead_channels(model: nn.Module) -> dict[str, float]:
    """Returns the share of channels without variance, for layers where it is above one half."""
    found = {}
    for path, module in batch_norms(model):
        assert module.running_var is not None
        share = (module.running_var < 1e-12).float().mean().item()
        if share > 0.5:
            found[path] = share
    return found


@contextmanager
def statistics_untouched(model: nn.Module) -> Iterator[None]:
    """Keeps the running statistics as they are while batch norms normalise by their batch."""
    modules = [module for _, module in batch_norms(model)]
    before = [(module.momentum, module.num_batches_tracked) for module in modules]
    for module in modules:
        module.momentum = 0.0
        assert module.num_batches_tracked is not None
        module.num_batches_tracked = module.num_batches_tracked.clone()
    try:
        yield
    finally:
        for module, (momentum, tracked) in zip(modules, before, strict=True):
            module.momentum, module.num_batches_tracked = momentum, tracked


class _Synced(BatchNorm):
    """Makes the batch norm class it is mixed into normalise over the batches of all processes.

    The class keeps its own forward, and with it what it does besides: timm's `BatchNormAct2d`
    applies an activation. Only its call of `torch.nn.functional.batch_norm` is computed otherwise.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalises (N, C, ...)."""
        if not self.training:
            return super().forward(input)
        with _OverProcesses() as over_processes:
            output = super().forward(input)
        if not over_processes.used:
            raise AtrousError(
                "E-BATCH-NORM-SYNC",
                f"{type(self).__name__} does not normalise by torch.nn.functional.batch_norm, so "
                "it cannot be computed over several processes",
                fix="train with --batch-norm train or frozen, or in one process",
            )
        return output


class SyncedBatchNorm2d(_Synced, nn.BatchNorm2d):
    """Batch norm over the batches of all processes, on any device.

    torch's `SyncBatchNorm` refuses CPU tensors. Mean and variance are those of the global batch,
    and gradients flow through the sums of all processes. If all processes together have one value
    per channel, the running statistics normalise it, as in `PooledBatchNorm2d`.
    """


class _OverProcesses(TorchFunctionMode):
    """Replaces `torch.nn.functional.batch_norm` within a block."""

    used = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Passes every other function on as it is."""
        if func is F.batch_norm:
            self.used = True
            return _batch_norm_over_processes(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm_over_processes(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Does what `torch.nn.functional.batch_norm` does, with the statistics of all processes."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    x = input.to(torch.promote_types(input.dtype, torch.float32))
    values = [axis for axis in range(x.ndim) if axis != 1]
    channels = (-1, *(1,) * (x.ndim - 2))
    count = x.new_tensor([x.numel() / x.shape[1]])
    totals = _SumOverProcesses.apply(torch.cat([x.sum(values), count]))
    count = totals[-1].detach()
    if count <= 1:
        return F.batch_norm(input, running_mean, running_var, weight, bias, eps=eps)
    mean = totals[:-1] / count
    centred = x - mean.view(channels)
    variance = _SumOverProcesses.apply((centred**2).sum(values)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((variance * count / (count - 1)).to(running_var), momentum)
    scale = torch.rsqrt(variance + eps)
    if weight is not None:
        scale = weight * scale
    normalized = centred * scale.view(channels)
    if bias is not None:
        normalized = normalized + bias.view(channels)
    return normalized.to(input.dtype)


class _SumOverProcesses(torch.autograd.Function):
    """Sums over processes, forward and backward."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return _all_reduce(x)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return _all_reduce(grad)


def _all_reduce(x: Tensor) -> Tensor:
    total = x.clone()
    if dist.is_initialized():
        dist.all_reduce(total)
    return total


def synchronize(model: nn.Module) -> None:
    """Makes every batch norm normalise over all processes; weights and their names stay.

    Subclasses of batch norm keep what they do besides, such as timm's activations.
    """
    for _, module in batch_norms(model):
        module.__class__ = _synced(type(module))  # type: ignore[arg-type]  # mypy: no Hashable


@cache
def _synced(kind: type[BatchNorm]) -> type[BatchNorm]:
    if issubclass(kind, (_Synced, nn.SyncBatchNorm)):
        return kind
    if kind in (nn.BatchNorm2d, PooledBatchNorm2d):  # both survive one value per channel then
        return SyncedBatchNorm2d
    return type(f"Synced{kind.__name__}", (_Synced, kind), {})
