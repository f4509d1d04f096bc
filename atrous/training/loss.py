"""Losses over labelled pixels: the authors' cross-entropy and the usual alternatives.

All of them give zero, with zero gradient, for a batch without a labelled pixel.

Shapes: N pictures of H x W pixels, K classes. Targets hold class indices, or `ignore_index`.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from atrous.classes import IGNORE_INDEX


def pixel_losses(
    logits: Tensor,
    targets: Tensor,
    *,
    class_weights: Tensor | None = None,
    focal_gamma: float = 0.0,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Returns each pixel's cross-entropy times its class's weight, 0 where unlabelled.

    Args:
        logits: (N, K, H, W).
        targets: (N, H, W) integers.
        class_weights: (K,); None: all 1.
        focal_gamma: The focusing exponent of the focal loss (arXiv:1708.02002): each loss is
            multiplied by (1 - p) ** gamma, p being the probability of the true class.
        ignore_index: The target of unlabelled pixels.

    Returns:
        (N, H, W) in float32, or in float64 for logits of that type.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets = targets.long()
    rows = logits.movedim(1, -1).flatten(0, -2)  # (N * H * W, K): a view in channels_last memory,
    losses = F.cross_entropy(rows, targets.flatten(), ignore_index=ignore_index, reduction="none")
    losses = losses.view_as(targets)  # and twice as fast as torch's own path over axis 1
    if focal_gamma:
        losses = losses * (1 - torch.exp(-losses)).clamp(min=0) ** focal_gamma
    if class_weights is not None:
        valid = targets != ignore_index
        losses = losses * class_weights.to(losses)[torch.where(valid, targets, 0)]
    return losses


class _SumOverPictures(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        total = logits.new_zeros((), dtype=torch.promote_types(logits.dtype, torch.float32))
        gradients: list[Tensor] = []
        count = len(logits)
        for picture, truth in zip(logits.detach().chunk(count), targets.chunk(count), strict=True):
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                value = loss(picture.requires_grad_(ctx.needs_input_grad[0]), truth)
            if ctx.needs_input_grad[0]:
                gradients += torch.autograd.grad(value, picture)
            total += value.detach()
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * torch.cat(ctx.saved_tensors), None, None


def sum_over_pictures(
    logits: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Returns the sum of the losses of single pictures, each taken together with its gradient.

    Tensors at full resolution exist for one picture at a time, and are freed before the backward
    pass begins.

    Args:
        logits: (N, K, h, w), coarse.
        targets: (N, H, W).
        loss: Maps logits (1, K, h, w) and targets (1, H, W) to a scalar, upsampling included.
    """
    return _SumOverPictures.apply(logits, targets, loss)


def ohem(
    losses: Tensor,
    logits: Tensor,
    targets: Tensor,
    *,
    threshold: float = 0.7,
    min_kept: float = 1 / 16,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Returns the mean loss of the pixels the network is unsure of (online hard examples).

    Only labelled pixels count, as candidates and in the minimum.

    Args:
        losses: (N, H, W), 0 where unlabelled.
        logits: (N, K, H, W).
        targets: (N, H, W).
        threshold: Pixels whose true class has a lower probability are kept.
        min_kept: At least this share of the labelled pixels is kept, the least sure first.
        ignore_index: The target of unlabelled pixels.
    """
    valid = targets != ignore_index
    if not valid.any():
        return losses.sum() * 0
    with torch.no_grad():
        surprise = pixel_losses(logits, targets, ignore_index=ignore_index)[valid]  # -log p
        least = max(1, int(min_kept * surprise.numel()))
        bound = -torch.log(torch.tensor(threshold)).to(surprise)
        bound = torch.minimum(bound, surprise.topk(least).values[-1])
    kept = losses[valid][surprise >= bound]
    return kept.sum() / kept.numel()


def dice_loss(logits: Tensor, targets: Tensor, *, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Returns 1 - the soft Dice score, averaged over the classes present in the targets.

    With p the probabilities and y the one-hot truth over labelled pixels, a class scores
    2 sum(p y) / (sum(p) + sum(y)).
    """
    p, y, present = _probabilities(logits, targets, ignore_index)  # (P, K), (P, K), (K,)
    if not present.any():
        return logits.sum() * 0
    score = 2 * (p * y).sum(0) / (p.sum(0) + y.sum(0)).clamp(min=1e-12)
    return (1 - score)[present].mean()


def lovasz_loss(logits: Tensor, targets: Tensor, *, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Returns the Lovasz-softmax loss (arXiv:1705.08790) over the batch.

    The convex extension of 1 - IoU, averaged over the classes present in the targets; at hard
    predictions it equals 1 - IoU.
    """
    p, y, present = _probabilities(logits, targets, ignore_index)
    if not present.any():
        return logits.sum() * 0
    p, y = p[:, present], y[:, present]
    errors, order = (y - p).abs().sort(dim=0, descending=True)  # (P, classes)
    truth = y.gather(0, order)
    intersection = truth.sum(0) - truth.cumsum(0)
    union = truth.sum(0) + (1 - truth).cumsum(0)
    jaccard = 1 - intersection / union  # loss after each pixel in order of error
    steps = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
    return (errors * steps).sum(0).mean()


def _probabilities(
    logits: Tensor, targets: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns probabilities and one-hot truth of the P labelled pixels, and the classes there."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    valid = targets != ignore_index
    p = logits.movedim(1, -1)[valid].softmax(1)  # (P, K)
    y = F.one_hot(targets[valid].long(), logits.shape[1]).to(p)
    return p, y, y.sum(0) > 0
