"""Batch norms that were folded into their convolutions get statistics of their own again.

A quantised file holds convolutions with the batch norm multiplied in. As an identity such a batch
norm is right as long as it uses its running statistics; in training it would normalise a signal
that the layers after it know at another scale. Measuring that scale once puts it where it belongs,
and changes nothing the network computes.
"""

import torch
from torch import Tensor, nn


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


def cloud_images(size: int = 224, count: int = 8, *, channels: int = 3, seed: int = 0) -> Tensor:
    """Returns coloured noise with the spectrum of photographs, where there are no photographs.

    The amplitude falls with one over the frequency, and the channels go mostly together.

    Args:
        size: Height and width.
        count: Number of pictures.
        channels: Channels of a picture.
        seed: Of the noise.

    Returns:
        (count, channels, size, size), float 0..255.
    """
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1 / size
    grey = torch.randn(count, 1, size, size, generator=generator)
    noise = grey + 0.3 * torch.randn(count, channels, size, size, generator=generator)
    clouds = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(size, size))
    clouds = clouds - clouds.mean((1, 2, 3), keepdim=True)
    return (118 + 60 * clouds / clouds.std((1, 2, 3), keepdim=True)).clamp(0, 255)
