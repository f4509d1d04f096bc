import math
from typing import Any

import pytest
import torch
from torch import nn

from atrous.build import create_model
from atrous.training.optim import (
    MovingAverage,
    Optimizer,
    learning_rate,
    parameter_groups,
    set_learning_rate,
)


@pytest.mark.parametrize("step", [0, 1, 15000, 29999])
def test_poly_is_the_papers(step: int) -> None:
    expected = 0.007 * (1 - step / 30000) ** 0.9
    assert learning_rate(step, base_lr=0.007, steps=30000) == pytest.approx(expected, rel=1e-12)


def test_cosine_is_half_at_half() -> None:
    rates = [learning_rate(s, base_lr=2.0, steps=100, schedule="cosine") for s in (0, 50, 100)]
    assert rates == pytest.approx([2.0, 1.0, 0.0])


def test_staircase_is_tensorflows_exponential_decay() -> None:
    """slim: decay_steps = int(pictures * epochs a step / batch); rate ** floor(s / decay_steps)."""
    decay_steps = int(1_281_167 * 2 / 32)
    for step, times in ((0, 0), (80_071, 0), (80_072, 1), (160_143, 1), (4_003_600, 50)):
        rate = learning_rate(
            step, base_lr=0.05, steps=10**7, schedule="staircase", decay_steps=decay_steps
        )
        assert rate == pytest.approx(0.05 * 0.94**times, rel=1e-12)


def test_nesterov_momentum_follows_tensorflows_update() -> None:
    """TensorFlow: a = m a + g; w = w - lr (g + m a), with L2 within g."""
    conv = nn.Conv2d(1, 1, 1, bias=False)
    groups = parameter_groups(nn.Sequential(conv), weight_decay=0.1)
    optimizer = Optimizer(groups, kind="nesterov")
    weight, accumulated = conv.weight.item(), 0.0
    for step in range(5):
        rate = learning_rate(step, base_lr=0.1, steps=5, schedule="staircase", decay_steps=2)
        optimizer.zero_grad()
        conv(torch.full((1, 1, 1, 1), 1.0 + step)).sum().backward()
        set_learning_rate(optimizer, rate)
        optimizer.step()
        gradient = 1.0 + step + 0.1 * weight
        accumulated = 0.9 * accumulated + gradient
        weight -= rate * (gradient + 0.9 * accumulated)
    assert conv.weight.item() == pytest.approx(weight, rel=1e-5)


@pytest.mark.parametrize("backbone", ["xception41", "mobilenet_v2", "resnet50"])
def test_only_convolutions_that_mix_channels_decay(backbone: str) -> None:
    model = create_model(backbone, num_classes=3)
    groups = parameter_groups(model, weight_decay=4e-5, head_multiplier=10.0)
    group_of = {id(p): group for group in groups for p in group["params"]}
    assert len(group_of) == len(list(model.parameters())) == sum(len(g["params"]) for g in groups)
    for name, parameter in model.named_parameters():
        group = group_of[id(parameter)]
        decays = parameter.ndim == 4 and parameter.shape[1] > 1  # depthwise weights: (C, 1, 3, 3)
        assert group["weight_decay"] == (4e-5 if decays else 0), name
        multiplier = 1.0 if name.startswith("encoder.backbone") else 10.0
        if name == "decoder.classifier.bias":
            multiplier *= 2
        assert group["lr_multiplier"] == multiplier, name


def test_what_is_frozen_is_in_no_group() -> None:
    model = create_model("mobilenet_v2", num_classes=3).freeze_backbone()
    groups = parameter_groups(model, weight_decay=4e-5)
    learning = {id(p) for group in groups for p in group["params"]}
    assert learning == {id(p) for n, p in model.named_parameters() if "backbone" not in n}


def test_momentum_sgd_follows_the_authors_update() -> None:
    """TensorFlow: a = m a + g; w = w - lr a, with L2 and multipliers within g."""
    conv = nn.Conv2d(2, 1, 1)
    groups = parameter_groups(conv, weight_decay=0.1, head_multiplier=3.0)
    optimizer = Optimizer(groups)
    weight, bias = conv.weight.detach().clone(), conv.bias.detach().clone()
    accumulated = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for step in range(5):
        rate = learning_rate(step, base_lr=0.1, steps=5)
        x = torch.full((1, 2, 1, 1), 1.0 + step)
        optimizer.zero_grad()
        conv(x).sum().backward()
        set_learning_rate(optimizer, rate)
        optimizer.step()
        accumulated[0] = 0.9 * accumulated[0] + 3 * (x + 0.1 * weight)
        accumulated[1] = 0.9 * accumulated[1] + 3 * 2 * 1
        weight, bias = weight - rate * accumulated[0], bias - rate * accumulated[1]
    torch.testing.assert_close(conv.weight.detach(), weight)
    torch.testing.assert_close(conv.bias.detach(), bias)


def test_adamw_decays_weights_apart_from_the_gradient() -> None:
    conv = nn.Conv2d(2, 1, 1, bias=False)
    before = conv.weight.detach().clone()
    groups = parameter_groups(conv, weight_decay=0.5)
    optimizer = Optimizer(groups, kind="adamw")
    set_learning_rate(optimizer, 0.1)
    conv(torch.zeros(1, 2, 1, 1)).sum().backward()  # gradient 0
    optimizer.step()
    torch.testing.assert_close(conv.weight.detach(), before * (1 - 0.1 * 0.5))


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adamw", "plain"])
def test_updates_are_those_of_torchs_optimisers(name: str) -> None:
    """Bit for bit, over rates that change, and after the state went into a file and back."""
    kind: Any = "sgd" if name == "plain" else name
    momentum = 0.0 if name == "plain" else 0.9
    ours, theirs = (
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)).to(
            memory_format=torch.channels_last
        )
        for _ in range(2)
    )
    theirs.load_state_dict(ours.state_dict())

    def optimizer_of(network: nn.Module) -> Any:
        groups = parameter_groups(network, weight_decay=0.01)
        return Optimizer(groups, kind=kind, momentum=momentum)

    own = optimizer_of(ours)
    groups = [
        {key: value for key, value in group.items() if key != "lr"}
        for group in parameter_groups(theirs, weight_decay=0.01)
    ]
    torchs: torch.optim.Optimizer = (
        torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999))
        if name == "adamw"
        else torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=name == "nesterov")
    )
    for step in range(6):
        images = torch.randn(2, 3, 9, 9).contiguous(memory_format=torch.channels_last)
        if step == 3:
            kept = {key: value.clone() for key, value in own.tensors().items()}
            own = optimizer_of(ours)
            own.restore(kept)
        for network, optimizer in ((ours, own), (theirs, torchs)):
            set_learning_rate(optimizer, 0.1 / (step + 1))
            optimizer.zero_grad()
            network(images).square().mean().backward()
            optimizer.step()
    for (key, value), other in zip(
        ours.state_dict().items(), theirs.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), key


def test_moving_average_matches_the_closed_form() -> None:
    model = nn.BatchNorm2d(1)
    average = MovingAverage(model, decay=0.9)
    for value in (1.0, 2.0, 3.0):
        with torch.no_grad():
            model.weight.fill_(value)
        model.num_batches_tracked.fill_(int(value))
        average.update(model)
    expected = 0.9**3 * 1 + 0.1 * (0.81 * 1 + 0.9 * 2 + 3)
    assert average.tensors["weight"].item() == pytest.approx(expected)
    assert average.tensors["num_batches_tracked"].item() == 3
    with average.swapped_in(model):
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 3
    assert math.isclose(average.tensors["weight"].item(), expected, rel_tol=1e-6)
