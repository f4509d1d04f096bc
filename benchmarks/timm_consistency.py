"""Measures how well timm's own atrous conversion keeps features, backbone by backbone.

    python benchmarks/timm_consistency.py [NAME ...]

Prints the largest difference between features at stride 16 and every second feature at stride 8,
with the same random weights, in units of the features' standard deviation.
"""

import sys

import torch

from atrous.build import create_model

NAMES = [
    "mobilenet_v2",
    "resnet50",
    "timm/resnet18",
    "timm/resnet50",
    "timm/resnext50_32x4d",
    "timm/regnety_016",
    "timm/mobilenetv3_large_100",
    "timm/efficientnet_b0",
    "timm/convnext_tiny",
    "timm/xception65",
]


def main(names: list[str]) -> None:
    print("backbone                     difference / deviation")
    for name in names:
        torch.manual_seed(0)
        model = create_model(name, num_classes=2, output_stride=16).eval()
        backbone = model.encoder.backbone
        for module in backbone.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.data.uniform_(0.8, 1.2)  # timm starts residual branches at zero
        images = torch.randn(1, 3, 129, 161)
        with torch.inference_mode():
            coarse, _ = backbone(images)
            backbone.set_output_stride(8)
            fine, _ = backbone(images)
        difference = (fine[..., ::2, ::2] - coarse).abs().max() / coarse.std()
        print(f"{name:<28} {difference:.1e}")


if __name__ == "__main__":
    main(sys.argv[1:] or NAMES)
