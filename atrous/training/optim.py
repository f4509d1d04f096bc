"""The optimiser: momentum, who learns how fast, what decays, and the schedules.

The rules of the authors' code (`train_utils.py`) where they have one.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

Schedule = Literal["poly", "cosine", "staircase", "constant"]


def learning_rate(
    step: int,
    *,
    base_lr: float,
    steps: int,
    schedule: Schedule = "poly",
    power: float = 0.9,
    decay_rate: float = 0.94,
    decay_steps: int = 1,
    slow_start_steps: int = 0,
    slow_start_lr: float = 1e-4,
) -> float:
    """Returns the learning rate of a step, a function of nothing but the step.

    Args:
        step: The update, from 0.
        base_lr: The rate after the slow start.
        steps: Updates of the whole run.
        schedule: ``poly``: base_lr * (1 - t) ** power (DeepLabv3, Sec. 4.1); ``cosine``:
            base_lr * (1 + cos(pi t)) / 2; t runs from 0 after the slow start to 1 at the end;
            ``staircase``: base_lr * decay_rate ** floor(s / decay_steps), s counting updates from
            the end of the slow start (the paper's ImageNet training, Sec. 4); ``constant``.
        power: Of the polynomial.
        decay_rate: Factor of each step of the staircase.
        decay_steps: Updates between its steps.
        slow_start_steps: Updates at the constant `slow_start_lr` before the schedule begins.
        slow_start_lr: Their rate.

    >>> learning_rate(15, base_lr=1.0, steps=20, power=1.0, slow_start_steps=10)
    0.5
    """
    if step < slow_start_steps:
        return slow_start_lr
    t = min(1.0, (step - slow_start_steps) / max(1, steps - slow_start_steps))
    if schedule == "poly":
        return base_lr * (1 - t) ** power
    if schedule == "cosine":
        return base_lr * (1 + math.cos(math.pi * t)) / 2
    if schedule == "staircase":
        return base_lr * decay_rate ** ((step - slow_start_steps) // decay_steps)
    return base_lr


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    head_multiplier: float = 1.0,
    bias_multiplier: float = 2.0,
) -> list[dict[str, Any]]:
    """Sorts a network's parameters by how they learn.

    Weight decay applies to weights of convolutions that mix channels: not to depthwise ones, not
    to batch norm, not to biases. Everything outside `encoder.backbone` (ASPP, decoder,
    classifier) learns `head_multiplier` times as fast, biases of convolutions `bias_multiplier`
    times; what is frozen is in no group. With momentum, a multiple of the rate is what the
    authors' multiple of the gradient is.

    Returns:
        Groups for an optimiser, each with its ``lr_multiplier``.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            convolution = isinstance(module, nn.Conv2d)
            multiplier = 1.0 if path.startswith("encoder.backbone") else head_multiplier
            if convolution and name == "bias":
                multiplier *= bias_multiplier
            decays = convolution and name == "weight" and not is_depthwise(module)
            key = (multiplier, weight_decay if decays else 0.0)
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "lr_multiplier": multiplier, "weight_decay": decay}
        for (multiplier, decay), parameters in groups.items()
    ]


def is_depthwise(module: nn.Module) -> bool:
    """Says whether a layer filters each channel by itself."""
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels


class Optimizer(ABC):
    """What torch's optimisers do, by torch's functions for one update, without their classes.

    The first use of those imports torch's compiler: 155 MB of every process that trains, and two
    seconds. State has torch's names.

    Args:
        groups: Parameters, each in one group; see `parameter_groups`.

    Attributes:
        param_groups: The groups, each with its ``lr``.
        state: Tensors by name, for each parameter.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        self.param_groups = [{"lr": 0.0, **group} for group in groups]
        # Before the first gradients: among those they would divide the memory of all later ones.
        self.state = {p: self._begin(p) for group in self.param_groups for p in group["params"]}

    @abstractmethod
    def _begin(self, parameter: Tensor) -> dict[str, Tensor]: ...

    @abstractmethod
    def _update(
        self,
        group: Mapping[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        state: dict[str, list[Tensor]],
    ) -> None: ...

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for parameter in self.state:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Moves every parameter that has a gradient."""
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            if moving:
                states = [self.state[p] for p in moving]
                by_name = {name: [state[name] for state in states] for name in states[0]}
                self._update(group, moving, [p.grad for p in moving], by_name)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the state by index of the parameter and name: ``3.momentum_buffer``."""
        return {
            f"{index}.{name}": value
            for index, values in enumerate(self.state.values())
            for name, value in values.items()
        }

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `tensors` returned."""
        own = self.tensors()
        for name, value in tensors.items():
            own[name].copy_(value)


class Momentum(Optimizer):
    """SGD with momentum: a = m * a + gradient; w = w - lr * a."""

    def __init__(
        self, groups: list[dict[str, Any]], momentum: float, *, nesterov: bool = False
    ) -> None:
        self.momentum = momentum
        self.nesterov = nesterov
        super().__init__(groups)

    def _begin(self, parameter: Tensor) -> dict[str, Tensor]:
        return {"momentum_buffer": torch.zeros_like(parameter)} if self.momentum else {}

    def _update(
        self,
        group: Mapping[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        state: dict[str, list[Tensor]],
    ) -> None:
        none: list[Tensor | None] = [None] * len(parameters)
        sgd(
            parameters,
            gradients,
            [*state.get("momentum_buffer", none)],
            weight_decay=group["weight_decay"],
            momentum=self.momentum,
            lr=group["lr"],
            dampening=0.0,
            nesterov=self.nesterov,
            maximize=False,
        )


class AdamW(Optimizer):
    """Adam with weight decay apart from the gradient (arXiv:1711.05101)."""

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float]) -> None:
        self.betas = betas
        super().__init__(groups)

    def _begin(self, parameter: Tensor) -> dict[str, Tensor]:
        zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        return {**zeros, "step": torch.zeros(())}

    def _update(
        self,
        group: Mapping[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        state: dict[str, list[Tensor]],
    ) -> None:
        adamw(
            parameters,
            gradients,
            state["exp_avg"],
            state["exp_avg_sq"],
            [],
            state["step"],
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )


def create_optimizer(
    groups: list[dict[str, Any]],
    *,
    optimizer: Literal["sgd", "adamw"],
    momentum: float = 0.9,
    nesterov: bool = False,
) -> Optimizer:
    """Returns SGD with momentum, or AdamW, where momentum is the first beta.

    The authors segment with plain momentum, and train on ImageNet with Nesterov's.
    """
    if optimizer == "sgd":
        return Momentum(groups, momentum, nesterov=nesterov)
    return AdamW(groups, (momentum, 0.999))


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Sets the rate of each group to its multiple of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_multiplier"]


class MovingAverage:
    """An exponential moving average of a network's parameters and statistics.

    Args:
        model: The network; its present values start the average.
        decay: Weight of the past in each update.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: value.detach().clone() for name, value in _tensors(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards the model: a = decay * a + (1 - decay) * value."""
        for name, value in _tensors(model).items():
            if value.is_floating_point():
                self.tensors[name].lerp_(value, 1 - self.decay)
            else:  # counters
                self.tensors[name].copy_(value)

    @contextmanager
    def swapped_in(self, model: nn.Module) -> Iterator[None]:
        """Lets the model hold the average for a while."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for name, value in _tensors(model).items():
            current = value.clone()
            value.copy_(self.tensors[name])
            self.tensors[name].copy_(current)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return model.state_dict(keep_vars=False)
