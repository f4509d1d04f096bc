"""Batch norm's statistics in training: their pace, where they come from, and across processes."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

BatchNorm = nn.modules.batchnorm._BatchNorm


def batch_norms(model: nn.Module) -> Iterator[tuple[str, BatchNorm]]:
    """Yields every batch norm of a network with its path."""
    for path, module in model.named_modules():
        if isinstance(module, BatchNorm):
            yield path, module


def set_momentum(model: nn.Module, momentum: float) -> None:
    """Sets the weight of a new batch in the running statistics (1 - the authors' decay).

    The paper's .0003 forgets its start after some ten thousand steps; a run of n steps wants about
    10 / n or more.
    """
    for _, module in batch_norms(model):
        module.momentum = momentum


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replaces the running statistics by the mean over batches, as the network stands now.

    A frozen backbone keeps its own.

    Args:
        model: The network; its mode comes back as it was.
        batches: Images (N, 3, H, W).
    """
    training = model.training
    model.train()
    modules = [module for _, module in batch_norms(model) if module.training]
    momenta = [module.momentum for module in modules]
    for module in modules:
        module.reset_running_stats()
        module.momentum = None  # torch: the cumulative mean
    for images in batches:
        model(images)
    for module, momentum in zip(modules, momenta, strict=True):
        module.momentum = momentum
    model.train(training)


@torch.no_grad()
def restore_folded(model: nn.Module, batches: Iterable[Tensor]) -> list[str]:
    """Gives batch norms that were folded into their convolutions statistics from data.

    Weights exported for inference have batch norm folded: ours is then the identity plus an
    offset. To train it, its mean m and deviation s are measured on data and compensated by scale
    and offset, so that the network computes what it did: ((x - m) / s) * s + (offset + m).

    Args:
        model: The network; it is run in evaluation mode.
        batches: Images (N, 3, H, W), several values per channel in all.

    Returns:
        The paths of the restored layers; empty when nothing was folded.
    """
    folded = {path: module for path, module in batch_norms(model) if _is_folded(module)}
    if not folded:
        return []
    moments = {path: _Moments(module.num_features) for path, module in folded.items()}
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, path=path: moments[path].add(inputs[0]))
        for path, module in folded.items()
    ]
    training = model.training
    model.eval()
    for images in batches:
        model(images)
    model.train(training)
    for hook in hooks:
        hook.remove()
    for path, module in folded.items():
        mean, variance = moments[path].result()
        assert module.running_mean is not None
        assert module.running_var is not None
        module.running_mean.copy_(mean)
        module.running_var.copy_(variance)
        module.weight.copy_((variance + module.eps).sqrt())
        module.bias.add_(mean)
    return list(folded)


def _is_folded(module: BatchNorm) -> bool:
    mean, variance = module.running_mean, module.running_var
    assert mean is not None
    assert variance is not None
    identity = torch.full_like(variance, 1 - module.eps)
    return not mean.any() and torch.equal(variance, identity) and bool((module.weight == 1).all())


class _Moments:
    """Mean and variance per channel over several batches, in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.sums = torch.zeros(2, channels, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        values = x.detach().double().transpose(0, 1).flatten(1)  # (C, values)
        self.count += values.shape[1]
        self.sums += torch.stack([values.sum(1), (values**2).sum(1)]).cpu()

    def result(self) -> tuple[Tensor, Tensor]:
        mean, square = self.sums / self.count
        return mean, (square - mean**2).clamp(min=0)


def dead_channels(model: nn.Module) -> dict[str, float]:
    """Returns the layers where more than half of the channels have no variance, with the share."""
    found = {}
    for path, module in batch_norms(model):
        assert module.running_var is not None
        share = (module.running_var < 1e-12).float().mean().item()
        if share > 0.5:
            found[path] = share
    return found


@contextmanager
def statistics_untouched(model: nn.Module) -> Iterator[None]:
    """Lets batch norms normalise by their batch without taking note of it."""
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


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, on any device.

    torch's `SyncBatchNorm` refuses CPU tensors. Mean and variance are those of the global batch,
    and gradients flow through the sums of all processes. A single value per channel in all
    is normalised by the running statistics, as in `PooledBatchNorm2d`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalises (N, C, H, W)."""
        if not self.training:
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        count = x.new_tensor([x.numel() / x.shape[1]])
        totals = _SumOverProcesses.apply(torch.cat([x.sum((0, 2, 3)), count]))
        count = totals[-1].detach()
        assert self.running_mean is not None
        assert self.running_var is not None
        if count <= 1:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        mean = totals[:-1] / count
        centred = x - mean[:, None, None]
        variance = _SumOverProcesses.apply((centred**2).sum((0, 2, 3))) / count
        self._take_note(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _take_note(self, mean: Tensor, variance: Tensor) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean), momentum)
        self.running_var.lerp_(variance.to(self.running_var), momentum)


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
    """Makes every batch norm one over all processes; weights and their names stay."""
    for _, module in batch_norms(model):
        module.__class__ = SyncedBatchNorm2d
