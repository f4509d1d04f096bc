"""Batch norms that were folded into their convolutions get statistics of their own again.

A quantised file holds convolutions with the batch norm multiplied in. As an identity such a batch
norm is right as long as it uses its running statistics; in training it would normalise a signal
that the layers after it know at another scale, and nothing of what was learned would be left.
Measuring that scale once, on pictures, puts it where it belongs and changes nothing the network
computes. Pictures must be real ones: MobileNetV2's features in training mode agree with those in
evaluation mode by a correlation of 0.06 as imported, 0.83 after 32 photographs, but 0.11 to 0.13
after coloured noise or painted discs (tests/weights/test_folding.py).
"""

import torch
from torch import Tensor, nn


def is_folded(network: nn.Module) -> bool:
    """Returns whether a network has batch norms that are identities, as imports from .tflite do."""
    return any(_is_identity(m) for m in network.modules() if isinstance(m, nn.BatchNorm2d))


def _is_identity(norm: nn.BatchNorm2d) -> bool:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    steady = not norm.running_mean.any() and bool((norm.running_var == 1 - norm.eps).all())
    return steady and bool((norm.weight == 1).all())


def restore_batch_norm(network: nn.Module, images: Tensor) -> None:
    """Moves the scale of each signal into its batch norm's statistics, scale and offset.

    In evaluation mode the network's outputs stay as they are. In training mode they then differ
    from those only as far as a batch's statistics differ from those of `images`.

    Args:
        network: Maps `images` to anything; its batch norms are changed in place.
        images: A batch of the kind the network sees, (N, C, H, W).
    """
    statistics: dict[nn.BatchNorm2d, tuple[Tensor, Tensor]] = {}

    def measure(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        statistics[norm] = (mean, variance)

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(measure) for norm in norms]
    training = network.training
    try:
        with torch.inference_mode():
            network.eval()(images)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    with torch.no_grad():
        for norm, (mean, variance) in statistics.items():
            _move(norm, mean.clone(), variance.clone())


def _move(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Gives a batch norm new statistics and the scale and offset that keep its function."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    slope = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    offset = norm.bias - slope * norm.running_mean
    norm.weight.copy_(slope * torch.sqrt(variance + norm.eps))
    norm.bias.copy_(offset + slope * mean)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
