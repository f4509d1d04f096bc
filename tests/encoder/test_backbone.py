import copy

import pytest
import torch
from torch import nn

from atrous.encoder.mobilenet_v3 import InvertedResidualV3, MobileNetV3
from atrous.encoder.resnet import Bottleneck
from atrous.encoder.strides import atrous_schedule
from atrous.encoder.xception import XceptionModule
from atrous.errors import AtrousError


def atrous_part(backbone):
    """MobileNetV3 without the means over all features, and without the shortcut a rate brings."""
    backbone = copy.deepcopy(backbone)
    for module in backbone.modules():
        if isinstance(module, InvertedResidualV3):
            module.squeeze_excite = nn.Identity()
    if isinstance(backbone, MobileNetV3):
        for unit, stride in zip(backbone.units, backbone._nominal_strides, strict=True):
            unit.same_channels = unit.same_channels and stride == 1
    return backbone


@pytest.mark.parametrize("size", [(65, 97), (64, 90)], ids=["odd", "even"])
@pytest.mark.parametrize(("fine", "coarse"), [(8, 16), (16, 32), (4, 8)])
def test_features_at_a_finer_stride_subsample_to_a_coarser_one(backbone, fine, coarse, size):
    backbone = atrous_part(backbone)
    images = torch.randn(1, 3, *size)
    with torch.inference_mode():
        backbone.set_output_stride(coarse)
        expected, _ = backbone(images)
        backbone.set_output_stride(fine)
        dense, _ = backbone(images)
    difference = (dense[..., ::2, ::2] - expected).abs().max()
    assert difference < 1e-4 * expected.std()


def test_low_level_features_are_where_their_stride_says(backbone):
    height, width = 97, 130
    with torch.inference_mode():
        high_level, low_level = backbone(torch.randn(1, 3, height, width))
    assert high_level.shape[1:] == (backbone.channels, 7, 9)
    assert set(low_level) == {4, 8, 16}
    for stride, features in low_level.items():
        expected = (backbone.low_level_channels[stride], -(-height // stride), -(-width // stride))
        assert features.shape[1:] == expected


def local(backbone):
    """A copy whose features depend on few pixels: blank stays zero, residual branches whisper."""
    backbone = copy.deepcopy(backbone)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    for module in backbone.modules():
        if isinstance(module, Bottleneck):
            module.conv3.bn.weight.data.fill_(0.02)
        if isinstance(module, XceptionModule) and module.skip != "none":
            module.separable3.pointwise.bn.weight.data.fill_(0.02)
    return backbone


@pytest.mark.parametrize(
    "backbone",
    [
        "mobilenet_v2",
        "resnet50",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("xception41", "xception65", "xception71", "resnet101")
        ),
    ],
    indirect=True,
)
def test_a_picture_shifted_by_one_stride_gives_shifted_features(backbone):
    torch.manual_seed(0)
    images = torch.zeros(2, 3, 289, 289)
    images[0, :, 136:152, 136:152] = torch.randn(3, 16, 16)
    images[1, :, 152:168, 136:152] = images[0, :, 136:152, 136:152]
    with torch.inference_mode():
        features, _ = local(backbone)(images)
    here, shifted = features[0, :, 7:11, 7:11], features[1, :, 8:12, 7:11]
    assert here.std() > 0
    assert (here - shifted).abs().max() < 1e-3 * here.std()


# The fact sheet's tables of strides and rates, unit by unit.
SCHEDULES = {
    # Xception-65: entry blocks 1-3, middle flow (one of 16), exit blocks 1-2
    ("xception", 32): [(2, 1), (2, 1), (2, 1), (1, 1), (2, 1), (1, 1)],
    ("xception", 16): [(2, 1), (2, 1), (2, 1), (1, 1), (1, 1), (1, 2)],
    ("xception", 8): [(2, 1), (2, 1), (1, 1), (1, 2), (1, 2), (1, 4)],
    ("xception", 4): [(2, 1), (1, 1), (1, 2), (1, 4), (1, 4), (1, 8)],
}


@pytest.mark.parametrize(("family", "output_stride"), SCHEDULES)
def test_rates_follow_the_authors_rule(family, output_stride):
    strides = [2, 2, 2, 1, 2, 1]
    assert (
        atrous_schedule(strides, output_stride, initial_stride=2)
        == SCHEDULES[family, output_stride]
    )


@pytest.mark.parametrize("output_stride", [0, 2, 12, 64, -16, "16"])
def test_unsupported_strides_are_refused(backbone, output_stride):
    with pytest.raises(AtrousError, match="E-OUTPUT-STRIDE"):
        backbone.set_output_stride(output_stride)
