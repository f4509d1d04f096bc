"""The optimiser, the learning rate of each parameter, and the moving average of the weights.

Where the authors' code (`train_utils.py`) has a rule, this file follows it.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

Schedule = Literal["poly", "linear", "cosine", "staircase", "constant"]
Kind = Literal["sgd", "nesterov", "adamw"]


def learning_rate(
    step: int, *, base_lr: float, steps: int, schedule: Schedule = "poly", decay_steps: int = 1
) -> float:
    """Returns the learning rate of a step, which depends on the step alone.

    Args:
        step: The update, from 0.
        base_lr: The rate of step 0.
        steps: Updates of the whole run.
        schedule: With t = step / steps: ``poly`` is base_lr * (1 - t) ** 0.9 (DeepLabv3,
            Sec. 4.1); ``linear`` is base_lr * (1 - t), which ends `street_end`; ``cosine`` is
            base_lr * (1 + cos(pi t)) / 2; ``staircase`` is base_lr * 0.94 ** floor(step /
            decay_steps), the paper's training on ImageNet (Sec. 4);
            ``constant`` is base_lr.
        decay_steps: Updates between the steps of the staircase.

    >>> learning_rate(15, base_lr=1.0, steps=20, schedule="cosine") < 0.15
    True
    """
    t = min(1.0, step / max(1, steps))
    if schedule == "poly":
        return base_lr * (1 - t) ** 0.9
    if schedule == "linear":
        return base_lr * (1 - t)
    if schedule == "cosine":
        return base_lr * (1 + math.cos(math.pi * t)) / 2
    if schedule == "staircase":
        return base_lr * 0.94 ** (step // decay_steps)
    return base_lr


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    head_multiplier: float = 1.0,
    bias_multiplier: float = 2.0,
) -> list[dict[str, Any]]:
    """Sorts a network's parameters by learning rate and weight decay.

    Weight decay applies to the weights of convolutions that mix channels, so not to depthwise
    convolutions, batch norms and biases. Parameters outside `encoder.backbone` (ASPP, decoder,
    classifier) learn `head_multiplier` times as fast, biases of convolutions `bias_multiplier`
    times. Frozen parameters are in no group. The authors multiply gradients; with momentum, a
    multiple of the learning rate is the same.

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
    """Returns whether a layer is a convolution that filters each channel separately."""
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels


class Optimizer:
    """SGD with momentum, plain or Nesterov's, or AdamW (arXiv:1711.05101).

    An update calls the functions inside torch's optimisers instead of their classes, because the
    first use of a class imports torch's compiler: 155 MB and two seconds of every process.

    Args:
        groups: Parameters with their rates and weight decay; see `parameter_groups`.
        kind: ``sgd``, ``nesterov`` or ``adamw``.
        momentum: Of SGD; the first beta of AdamW, whose second is 0.999.

    Attributes:
        param_groups: The groups, each with its ``lr``.
        state: Tensors of each parameter by name, the names of torch's optimisers.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, kind: Kind = "sgd", momentum: float = 0.9
    ) -> None:
        self.kind = kind
        self.momentum = momentum
        self.param_groups = [{"lr": 0.0, **group} for group in groups]
        # State is allocated before the first gradients. Allocated among them, it would split the
        # memory that all later updates use again.
        self.state = {p: self._begin(p) for group in self.param_groups for p in group["params"]}

    def _begin(self, parameter: Tensor) -> dict[str, Tensor]:
        if self.kind == "adamw":
            zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            return {**zeros, "step": torch.zeros(())}
        return {"momentum_buffer": torch.zeros_like(parameter)} if self.momentum else {}

    def zero_grad(self) -> None:
        """Frees the gradients."""
        for parameter in self.state:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Moves every parameter that has a gradient."""
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            if not moving:
                continue
            gradients = [p.grad for p in moving]
            states = [self.state[p] for p in moving]
            rates = {"lr": group["lr"], "weight_decay": group["weight_decay"], "maximize": False}
            if self.kind == "adamw":
                averages, squares, steps = (
                    [state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step")
                )
                adamw(
                    moving, gradients, averages, squares, [], steps, amsgrad=False,
                    beta1=self.momentum, beta2=0.999, eps=1e-8, **rates,
                )  # fmt: skip
            else:
                buffers = [state.get("momentum_buffer") for state in states]
                sgd(
                    moving, gradients, buffers, momentum=self.momentum, dampening=0.0,
                    nesterov=self.kind == "nesterov", **rates,
                )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """Returns the state by index of the parameter and name: ``3.momentum_buffer``."""
        return {
            f"{index}.{name}": value
            for index, values in enumerate(self.state.values())
            for name, value in values.items()
        }

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Copies the state that `tensors` returned."""
        own = self.tensors()
        for name, value in tensors.items():
            own[name].copy_(value)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Sets the rate of each group to its multiple of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_multiplier"]


class MovingAverage:
    """An exponential moving average of a network's parameters and statistics.

    Args:
        model: The network, whose present values start the average.
        decay: Weight of the old average in each update.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards the model: a = decay * a + (1 - decay) * value."""
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.tensors[name].lerp_(value, 1 - self.decay)
            else:  # counters
                self.tensors[name].copy_(value)

    @contextmanager
    def swapped_in(self, model: nn.Module) -> Iterator[None]:
        """Exchanges the model's values with the average inside the context."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for name, value in model.state_dict().items():
            current = value.clone()
            value.copy_(self.tensors[name])
            self.tensors[name].copy_(current)
