"""Counts what a network costs: parameters, multiply-adds, size of its activations."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from atrous.layers import Size
from atrous.model import Model, walk_shapes

Convention = Literal["true", "paper"]


@dataclass(frozen=True)
class Cost:
    """Cost of one picture.

    Attributes:
        multiply_adds: Multiply-adds of the convolutions.
        paper_multiply_adds: The same, counted as in the paper (see `multiply_adds`).
        activation_bytes: Size of the outputs of convolutions and batch norms in float32, which is
            about what a training step keeps for the backward pass.
    """

    multiply_adds: int
    paper_multiply_adds: int
    activation_bytes: int


def parameters(model: nn.Module) -> int:
    """Counts the trainable parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: Model, size: Size, *, convention: Convention = "true") -> int:
    """Counts the multiply-adds of the convolutions for one picture.

    The paper's figures (Tables 3 and 5) come from profiles of TensorFlow graphs. There, an atrous
    convolution of rate r is an ordinary convolution on features padded with zeros to a multiple of
    r (SpaceToBatch). ``paper`` therefore counts ceil(h / r) * r by ceil(w / r) * r outputs,
    ``true`` counts the h by w outputs that exist.

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
    """Counts the costs of one picture with a copy of the network on the meta device."""
    true = paper = activations = 0

    def count(path: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal true, paper, activations
        activations += 4 * output.numel()
        if not isinstance(module, nn.Conv2d):
            return
        _, _, height, width = output.shape
        per_output = module.weight.numel()  # out * in / groups * kh * kw
        true += per_output * height * width
        rows, columns = module.dilation
        paper += per_output * _padded(height, rows) * _padded(width, columns)

    walk_shapes(model, size, count)
    return Cost(true, paper, activations)


def _padded(length: int, rate: int) -> int:
    return math.ceil(length / rate) * rate
