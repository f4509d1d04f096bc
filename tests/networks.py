"""Networks with random weights, drawn faster than by the authors' initialisers."""

from collections.abc import Iterable

import torch

from atrous.build import create_model
from atrous.model import DeepLabV3Plus
from atrous.training.batch_norm import batch_norms


def random_network(backbone: str, *, seed: int = 0, **options) -> DeepLabV3Plus:
    """Builds a network in evaluation mode whose batch norms do something, as if trained."""
    options = {"num_classes": 2, **options}
    with torch.device("meta"):
        model = create_model(backbone, **options)
    model.to_empty(device="cpu")
    model.normalize.mean.fill_(127.5)
    model.normalize.std.fill_(127.5)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.2, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.num_batches_tracked.zero_()
    return model.eval()


@torch.no_grad()
def recalibrate(model: torch.nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Replaces the running statistics by their mean over batches, for the weights of now.

    A frozen backbone keeps its statistics.

    Args:
        model: The network; its mode is set back afterwards.
        batches: Images (N, 3, H, W).
    """
    training = model.training
    model.train()
    modules = [module for _, module in batch_norms(model) if module.training]
    momenta = [module.momentum for module in modules]
    for module in modules:
        module.reset_running_stats()
        module.momentum = None  # torch: the cumulative mean
    for images in batches:
        model(images)
    for module, momentum in zip(modules, momenta, strict=True):
        module.momentum = momentum
    model.train(training)
