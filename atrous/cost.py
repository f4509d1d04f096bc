"""What a network costs: parameters, multiply-adds in two conventions, memory of activations."""

import copy
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from atrous.layers import Size
from atrous.model import Model

Convention = Literal["true", "paper"]


@dataclass(frozen=True)
class Cost:
    """Cost of one picture.

    Attributes:
        multiply_adds: Of the convolutions, as they are.
        paper_multiply_adds: The same as the paper counts them.
        activation_bytes: Outputs of convolutions and batch norms in float32: about what a
            training step keeps for the backward pass.
    """

    multiply_adds: int
    paper_multiply_adds: int
    activation_bytes: int


def parameters(model: nn.Module) -> int:
    """Counts the trainable numbers of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: Model, size: Size, *, convention: Convention = "true") -> int:
    """Counts the multiply-adds of the convolutions for one picture.

    The paper's figures (Tables 3 and 5) are profiles of TensorFlow graphs, in which an atrous
    convolution of rate r runs as an ordinary one on a picture padded with zeros to multiples of
    r (SpaceToBatch): ``paper`` charges ceil(h / r) * r by ceil(w / r) * r outputs, ``true``
    the h by w there are.

    Args:
        model: The network.
        size: Height and width of the picture.
        convention: ``true`` or ``paper``.

    Raises:
        ValueError: Another convention.
    """
    if convention not in ("true", "paper"):
        raise ValueError(f"convention must be 'true' or 'paper', not {convention!r}")
    cost = measure(model, size)
    return cost.multiply_adds if convention == "true" else cost.paper_multiply_adds


def measure(model: Model, size: Size) -> Cost:
    """Follows one picture through a copy of the network that has shapes but no values."""
    true = paper = activations = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal true, paper, activations
        activations += 4 * output.numel()
        if not isinstance(module, nn.Conv2d):
            return
        _, _, height, width = output.shape
        per_output = module.weight.numel()  # out * in / groups * kh * kw
        true += per_output * height * width
        rows, columns = module.dilation
        paper += per_output * _padded(height, rows) * _padded(width, columns)

    ghost = copy.deepcopy(model).to("meta").eval()
    for module in ghost.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.register_forward_hook(count)
    with torch.inference_mode():
        ghost(torch.empty(1, model.architecture.in_channels, *size, device="meta"))
    return Cost(true, paper, activations)


def _padded(length: int, rate: int) -> int:
    return math.ceil(length / rate) * rate
