"""Recomputes outputs of batch norm and activation in the backward pass instead of storing them.

Autograd stores the input of every layer for the backward pass. The output of a convolution must be
stored. The output of batch norm and ReLU after it has the same size, and one pass over memory can
compute it again. Such a tensor therefore carries a recipe (`Origin`). Autograd stores the recipe
instead of the tensor and rebuilds the tensor, bit for bit, in the backward pass. This works on the
CPU alone; on other devices batch norm is another operation.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

_enabled = True


class Origin:
    """The recipe of a tensor, which autograd stores in place of the tensor.

    Args:
        make: Computes the tensor. No gradients are recorded.
    """

    def __init__(self, make: Callable[[], Tensor]) -> None:
        self.make = torch.no_grad()(make)
        self.version = 0  # the tensor's version: writing to the tensor makes the recipe invalid
        self._value: Tensor | None = None
        self._readers = 0

    def keep(self) -> "Origin":
        """Counts one more operation that will read the tensor in the backward pass."""
        self._readers += 1
        return self

    def read(self) -> Tensor:
        """Returns the tensor. It is built for the first reader and freed after the last."""
        value = self.make() if self._value is None else self._value
        self._readers -= 1
        self._value = value if self._readers > 0 else None
        return value


def origin_of(tensor: Tensor) -> Origin | None:
    """Returns the recipe of a tensor, if it has a valid one."""
    origin = getattr(tensor, "origin", None)  # a traced tensor answers any name: check the type
    fits = isinstance(origin, Origin) and origin.version == tensor._version
    return origin if fits else None


def remember(tensor: Tensor, origin: Origin) -> Tensor:
    """Attaches a recipe to a tensor and returns the tensor."""
    origin.version = tensor._version
    tensor.origin = origin  # type: ignore[attr-defined]
    return tensor


def reading(tensor: Tensor) -> AbstractContextManager[None]:
    """Makes autograd store the tensor's recipe, if it has one, for operations in the block."""
    origin = origin_of(tensor)
    return nullcontext() if origin is None else _kept(origin, tensor)


def normalize(x: Tensor, batch_norm: nn.BatchNorm2d, activation: nn.Module) -> Tensor:
    """Applies batch norm and an activation. The result carries its recipe where possible.

    Args:
        x: (N, C, H, W) from a convolution.
        batch_norm: Batch norm. Subclasses of `nn.BatchNorm2d` are called without a recipe.
        activation: An activation in place, or `nn.Identity`.
    """
    if not _can_remember(x, batch_norm, activation):
        return activation(batch_norm(x))
    source, weight, bias = x.detach(), batch_norm.weight, batch_norm.bias
    mean, variance, epsilon = batch_norm.running_mean, batch_norm.running_var, batch_norm.eps
    training, momentum = batch_norm.training, batch_norm.momentum
    assert momentum is not None
    # The function that `nn.BatchNorm2d` ends in. The module does not return mean and deviation.
    y, batch_mean, inverse_deviation = torch.native_batch_norm(
        x, weight, bias, mean, variance, training, momentum, epsilon
    )
    if training:
        assert batch_norm.num_batches_tracked is not None
        batch_norm.num_batches_tracked.add_(1)
        mean, variance, epsilon = batch_mean, torch.ones_like(batch_mean), 0.0

    def make() -> Tensor:
        scale = weight * inverse_deviation if training else weight
        y = torch.native_batch_norm(source, scale, bias, mean, variance, False, 0.0, epsilon)[0]
        return activation(y)

    origin = Origin(make)
    if not isinstance(activation, nn.Identity):
        with _kept(origin):
            y = activation(y)
    return remember(y, origin)


def rectify(x: Tensor) -> Tensor:
    """Returns max(x, 0), with a recipe if x has one."""
    before = origin_of(x)
    if before is None:
        return torch.relu(x)
    origin = Origin(lambda: before.make().relu_())
    with _kept(origin):
        y = torch.relu(x)
    return remember(y, origin)


@contextmanager
def nothing_made_again() -> Iterator[None]:
    """Turns recipes off. Gradient checkpointing needs this: it recomputes whole blocks itself."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def _can_remember(x: Tensor, batch_norm: nn.BatchNorm2d, activation: nn.Module) -> bool:
    return (
        _enabled
        and x.requires_grad
        and torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.numel() > x.shape[1]  # for one value per channel batch norm must raise its own error
        and type(batch_norm) is nn.BatchNorm2d
        and batch_norm.momentum is not None
        # Their gradients follow from their outputs.
        and isinstance(activation, nn.Identity | nn.ReLU | nn.ReLU6)
        and not torch.compiler.is_compiling()
    )


@contextmanager
def _kept(origin: Origin, tensor: Tensor | None = None) -> Iterator[None]:
    """Makes autograd store a recipe in place of one tensor, or of every tensor if none is given."""
    # Autograd keeps the hooks as long as the saved recipe, so they must not refer to the tensor.
    wanted = None if tensor is None else _place(tensor)

    def pack(saved: Tensor) -> Tensor | Origin:
        return origin.keep() if wanted is None or wanted == _place(saved) else saved

    def unpack(kept: Tensor | Origin) -> Tensor:
        return kept.read() if isinstance(kept, Origin) else kept

    with saved_tensors_hooks(pack, unpack):
        yield


def _place(tensor: Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()
