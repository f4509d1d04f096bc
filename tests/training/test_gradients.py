"""Gradients of whole networks against finite differences, in float64."""

import pytest
import torch
from torch import nn

from atrous.build import create_model
from atrous.training.cpu.install import install
from atrous.training.loss import pixel_losses
from tests.networks import recalibrate

STEPS = (
    1e-7,
    1e-8,
    1e-9,
    1e-10,
)  # long ones cross the kinks of ReLUs, short ones drown in rounding
PARTS = ("encoder.backbone", "encoder.aspp", "decoder")


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("mobilenet_v2", {"depth_multiplier": 0.1}),
        ("mobilenet_v2", {"depth_multiplier": 0.1, "output_stride": 8, "separable": False}),
        pytest.param("resnet50", {}, marks=pytest.mark.slow),
        pytest.param("xception41", {}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_of_the_network_agree_with_finite_differences(
    backbone: str, options: dict[str, object], frozen: bool
) -> None:
    """(L(w + e d) - L(w - e d)) / 2e = dL/dw . d, for a random direction d of every part."""
    torch.manual_seed(0)
    model = create_model(backbone, num_classes=3, **options).double().train()  # type: ignore[arg-type]
    install(model)
    model.encoder.aspp.dropout.p = 0.0
    images = 255 * torch.rand(2, 3, 33, 38, dtype=torch.float64)
    targets = torch.randint(0, 3, (2, 33, 38))
    targets[0, :5] = 255
    nn.init.normal_(model.decoder.classifier.weight)  # else the logits hardly depend on the rest
    recalibrate(model, [images])
    if frozen:
        model.freeze_batch_norm()

    def loss() -> torch.Tensor:
        return pixel_losses(model(images), targets).sum() / (targets != 255).sum()

    loss().backward()
    for part in PARTS:
        weights = list(model.get_submodule(part).parameters())
        directions = [torch.randn_like(w) * w.detach().abs().mean() for w in weights]
        expected = float(sum((w.grad * d).sum() for w, d in zip(weights, directions, strict=True)))
        start = [w.detach().clone() for w in weights]

        def slope(step: float, start=start, weights=weights, directions=directions) -> float:
            values = []
            for signed in (step, -step):
                with torch.no_grad():
                    for w, w0, d in zip(weights, start, directions, strict=True):
                        w.copy_(w0 + signed * d)
                    values.append(loss().item())
            return (values[0] - values[1]) / (2 * step)

        error = min(abs(slope(step) / expected - 1) for step in STEPS)
        assert error < 1e-4, part
        with torch.no_grad():
            for w, w0 in zip(weights, start, strict=True):
                w.copy_(w0)
