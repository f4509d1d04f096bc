import math

import numpy as np
import pytest
import torch
from torch import Tensor

from atrous.layers import resize
from atrous.training.loss import (
    dice_loss,
    lovasz_loss,
    ohem,
    pixel_losses,
    sum_over_pictures,
)

IGNORE = 255


def mean_over_valid(losses: Tensor, targets: Tensor) -> Tensor:
    """Returns the loss of a batch as the learner sums it up: over the labelled pixels."""
    return losses.sum() / (targets != IGNORE).sum().clamp(min=1)


LOSSES = {
    "cross_entropy": lambda x, y: mean_over_valid(pixel_losses(x, y), y),
    "weighted": lambda x, y: mean_over_valid(
        pixel_losses(x, y, class_weights=torch.tensor([1.0, 3.0, 0.5])), y
    ),
    "focal": lambda x, y: mean_over_valid(pixel_losses(x, y, focal_gamma=2.0), y),
    "ohem": lambda x, y: ohem(pixel_losses(x, y), x, y),
    "dice": dice_loss,
    "lovasz": lovasz_loss,
}


def _batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 3, (2, 5, 7), generator=generator)
    targets[torch.rand(2, 5, 7, generator=generator) < 0.3] = IGNORE
    return logits.requires_grad_(), targets


def _naive(logits: Tensor, targets: Tensor) -> list[tuple[int, float]]:
    """Returns (class, cross-entropy) of every labelled pixel, by the definition."""
    pixels = []
    x = logits.detach().numpy()
    for n, i, j in np.ndindex(*targets.shape):
        label = int(targets[n, i, j])
        if label != IGNORE:
            exponentials = [math.exp(value) for value in x[n, :, i, j]]
            pixels.append((label, -math.log(exponentials[label] / sum(exponentials))))
    return pixels


@pytest.mark.parametrize("name", LOSSES)
def test_D11_all_ignored_batch_has_zero_loss_and_zero_gradient(name: str) -> None:
    logits, targets = _batch()
    loss = LOSSES[name](logits, torch.full_like(targets, IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    logits, targets = _batch()
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, targets), (logits,))


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_do_not_matter(name: str) -> None:
    logits, targets = _batch()
    changed = torch.where((targets == IGNORE)[:, None], 100 * torch.randn(2, 3, 5, 7), logits)
    assert LOSSES[name](logits, targets) == LOSSES[name](changed, targets)


def test_cross_entropy_matches_naive_loop() -> None:
    logits, targets = _batch()
    pixels = _naive(logits, targets)
    expected = sum(loss for _, loss in pixels) / len(pixels)
    assert LOSSES["cross_entropy"](logits, targets).item() == pytest.approx(expected, rel=1e-12)


def test_class_weights_scale_the_loss_and_not_the_normaliser() -> None:
    logits, targets = _batch()
    pixels = _naive(logits, targets)
    expected = sum((1.0, 3.0, 0.5)[label] * loss for label, loss in pixels) / len(pixels)
    assert LOSSES["weighted"](logits, targets).item() == pytest.approx(expected, rel=1e-6)


def test_focal_loss_matches_its_definition() -> None:
    logits, targets = _batch()
    pixels = _naive(logits, targets)
    expected = sum((1 - math.exp(-loss)) ** 2 * loss for _, loss in pixels) / len(pixels)
    assert LOSSES["focal"](logits, targets).item() == pytest.approx(expected, rel=1e-12)


def test_ohem_counts_labelled_pixels_only() -> None:
    logits, targets = _batch()
    losses = sorted((loss for _, loss in _naive(logits, targets)), reverse=True)
    unsure = [loss for loss in losses if loss > -math.log(0.7)]
    got = ohem(pixel_losses(logits, targets), logits, targets)
    assert got.item() == pytest.approx(sum(unsure) / len(unsure), rel=1e-12)
    half = losses[: int(0.5 * len(losses))]
    got = ohem(pixel_losses(logits, targets), logits, targets, threshold=1e-9, min_kept=0.5)
    assert got.item() == pytest.approx(sum(half) / len(half), rel=1e-12)


def test_dice_matches_its_definition() -> None:
    logits, targets = _batch()
    p = logits.detach().softmax(1).movedim(1, -1)[targets != IGNORE].numpy()
    y = np.eye(3)[targets[targets != IGNORE].numpy()]
    scores = [2 * (p[:, k] @ y[:, k]) / (p[:, k].sum() + y[:, k].sum()) for k in range(3)]
    assert dice_loss(logits, targets).item() == pytest.approx(1 - np.mean(scores), rel=1e-12)


def test_lovasz_equals_one_minus_iou_at_hard_predictions() -> None:
    logits, targets = _batch()
    labels = logits.argmax(1)
    hard = 1000.0 * torch.eye(3)[labels].movedim(-1, 1)
    valid = targets != IGNORE
    ious = [
        ((labels == k) & (targets == k)).sum() / (((labels == k) & valid) | (targets == k)).sum()
        for k in range(3)
    ]
    assert lovasz_loss(hard, targets).item() == pytest.approx(1 - np.mean(ious), rel=1e-5)


def test_absent_classes_do_not_count_in_dice_and_lovasz() -> None:
    targets = torch.zeros(1, 4, 4, dtype=torch.int64)
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 0] = 1000.0
    assert dice_loss(logits, targets) == 0
    assert lovasz_loss(logits, targets) == 0


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_sum_over_pictures_is_that_of_the_batch_with_its_gradient(gamma: float) -> None:
    torch.manual_seed(0)
    coarse = torch.randn(3, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 4, (3, 9, 5))
    targets[1] = 255

    def loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        whole = resize(logits, 4, 1, (9, 5))
        return pixel_losses(whole, truth, focal_gamma=gamma).sum()

    got = 0.25 * sum_over_pictures(coarse, targets, loss)
    expected = 0.25 * loss(coarse, targets)
    torch.testing.assert_close(got, expected)
    gradients = [torch.autograd.grad(value, coarse)[0] for value in (got, expected)]
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        torch.testing.assert_close(sum_over_pictures(coarse, targets, loss), 4 * expected)
