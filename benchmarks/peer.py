"""The peer: segmentation_models.pytorch's DeepLabV3Plus, at its best and as most people run it.

It refuses 513 x 513, so its modules are called with resizing to matching sizes; nothing else of
it is changed. Rates are the paper's 6, 12, 18 for output stride 16.
"""

import warnings
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ENCODERS = {
    "mobilenet_v2": "mobilenet_v2",
    "xception65": "tu-xception65",
    "resnet101": "resnet101",
}
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Peer(nn.Module):
    """Maps uint8 images (N, H, W, 3) to logits (N, K, H, W), or to labels with `arg_max`."""

    def __init__(self, backbone: str, *, num_classes: int = 21, arg_max: bool = False) -> None:
        super().__init__()
        self.model = smp.DeepLabV3Plus(
            ENCODERS[backbone],
            encoder_weights=None,
            classes=num_classes,
            decoder_atrous_rates=(6, 12, 18),
        )
        self.arg_max = arg_max
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        features = self.model.encoder(x)
        decoder = self.model.decoder
        low_level = decoder.block1(features[2])
        encoded = decoder.aspp(features[-1])
        encoded = _resize(encoded, low_level.shape[-2:])
        x = decoder.block2(torch.cat([encoded, low_level], dim=1))
        logits = _resize(self.model.segmentation_head[0](x), images.shape[1:3])
        return logits.argmax(1).to(torch.uint8) if self.arg_max else logits


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def lively(model: nn.Module, images: Tensor) -> None:
    """Sets batch norms to the statistics of random signals, so that no layer is all zeros."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    with torch.inference_mode():
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def multiply_adds(model: nn.Module, images: Tensor) -> int:
    """Counts the multiply-adds of the convolutions in one forward."""
    total = 0

    def count(module: nn.Conv2d, inputs: object, output: Tensor) -> None:
        nonlocal total
        total += output.numel() * module.weight[0].numel() // output.shape[0]

    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d)]
    with torch.inference_mode():
        model(images)
    for handle in handles:
        handle.remove()
    return total


def export(model: Peer, path: Path, size: tuple[int, int]) -> None:
    """Writes the peer with torch's exporter, fixed to a size, which is its fastest form."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(1, *size, 3, dtype=torch.uint8),),
            str(path),
            dynamo=False,
            input_names=["image"],
            output_names=["labels" if model.arg_max else "logits"],
            opset_version=17,
        )
