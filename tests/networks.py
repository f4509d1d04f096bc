"""Networks with random weights, drawn faster than by the authors' initialisers."""

import torch

from atrous.build import create_model
from atrous.model import DeepLabV3Plus


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
