"""Batch norm and activation made again in the backward pass instead of kept for it.

Autograd keeps what every layer reads. Outputs of convolutions have to be kept; what batch norm and
ReLU make of them is as large again and costs one pass over memory. So tensors remember their
origin, and whoever would keep one keeps that: the tensor is made again, equal in every bit, when
its readers' gradients are due. This is for the CPU; elsewhere batch norm is another operation.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

_enabled = True


class Origin:
    """How a tensor is made, kept in the place of the tensor.

    Args:
        make: Returns the tensor, without recording gradients.
    """

    def __init__(self, make: Callable[[], Tensor]) -> None:
        self.make = torch.no_grad()(make)
        self.version = 0  # of the tensor: one that was written to since is another
        self._value: Tensor | None = None
        self._readers = 0

    def keep(self) -> "Origin":
        """Notes one more reader."""
        self._readers += 1
        return self

    def read(self) -> Tensor:
        """Returns the tensor, which is there from its first reader to its last."""
        value = self.make() if self._value is None else self._value
        self._readers -= 1
        self._value = value if self._readers > 0 else None
        return value


def origin_of(tensor: Tensor) -> Origin | None:
    """Returns how a tensor is made, where it remembers."""
    origin = getattr(tensor, "origin", None)  # of a tensor that is only traced: anything
    fits = isinstance(origin, Origin) and origin.version == tensor._version
    return origin if fits else None


def remember(tensor: Tensor, origin: Origin) -> Tensor:
    """Returns the tensor, which from now on remembers its origin."""
    origin.version = tensor._version
    tensor.origin = origin  # type: ignore[attr-defined]
    return tensor


def reading(tensor: Tensor) -> AbstractContextManager[None]:
    """Lets autograd keep the origin of a tensor, if it has one, in the operations within."""
    origin = origin_of(tensor)
    return nullcontext() if origin is None else _kept(origin, tensor)


def normalize(x: Tensor, batch_norm: nn.BatchNorm2d, activation: nn.Module) -> Tensor:
    """Applies batch norm and an activation; the result remembers both where it can.

    Args:
        x: (N, C, H, W) from a convolution.
        batch_norm: Plain batch norm, or a class of its own, which is called as it is.
        activation: In place, or `nn.Identity`.
    """
    if not _can_remember(x, batch_norm, activation):
        return activation(batch_norm(x))
    source, weight, bias = x.detach(), batch_norm.weight, batch_norm.bias
    mean, variance, epsilon = batch_norm.running_mean, batch_norm.running_var, batch_norm.eps
    training, momentum = batch_norm.training, batch_norm.momentum
    assert momentum is not None
    # What `nn.BatchNorm2d` comes down to; it does not return mean and deviation.
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
    """Returns max(x, 0), which remembers that if x remembers its origin."""
    before = origin_of(x)
    if before is None:
        return torch.relu(x)
    origin = Origin(lambda: before.make().relu_())
    with _kept(origin):
        y = torch.relu(x)
    return remember(y, origin)


@contextmanager
def nothing_made_again() -> Iterator[None]:
    """Lets autograd keep the tensors themselves, for those who forget and remake whole blocks."""
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
        and x.numel() > x.shape[1]  # of a single value a channel, batch norm has something to say
        and type(batch_norm) is nn.BatchNorm2d
        and batch_norm.momentum is not None
        and isinstance(activation, nn.Identity | nn.ReLU | nn.ReLU6)  # gradients by their results
        and not torch.compiler.is_compiling()
    )


@contextmanager
def _kept(origin: Origin, tensor: Tensor | None = None) -> Iterator[None]:
    """Lets autograd keep an origin: instead of a tensor, or of all it would keep."""
    # The hooks live as long as what was saved with them: they must not hold the tensor.
    wanted = None if tensor is None else _place(tensor)

    def pack(saved: Tensor) -> Tensor | Origin:
        return origin.keep() if wanted is None or wanted == _place(saved) else saved

    def unpack(kept: Tensor | Origin) -> Tensor:
        return kept.read() if isinstance(kept, Origin) else kept

    with saved_tensors_hooks(pack, unpack):
        yield


def _place(tensor: Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()
