import pytest
import torch

from atrous.encoder.mobilenet_v2 import MobileNetV2, make_divisible

# Output channels of the authors' layers 1 to 18, from the fact sheet of their code.
CHANNELS = {
    1.0: [32, 16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320],
    0.5: [16, 8, 12, 12, 16, 16, 16, 32, 32, 32, 32, 48, 48, 48, 80, 80, 80, 160],
}


@pytest.mark.parametrize("depth_multiplier", CHANNELS)
def test_channels_are_the_authors(depth_multiplier):
    with torch.device("meta"):
        network = MobileNetV2(depth_multiplier=depth_multiplier)
    found = [network.conv.conv.out_channels, *(u.project.conv.out_channels for u in network.units)]
    assert found == CHANNELS[depth_multiplier]
    assert network.channels == CHANNELS[depth_multiplier][-1]


@pytest.mark.parametrize(
    ("output_stride", "rates"),
    [
        (32, [1] * 17),
        (16, [1] * 14 + [2] * 3),  # layer 15 keeps its rate, 16 to 18 double it
        (8, [1] * 7 + [2] * 7 + [4] * 3),
    ],
)
def test_rates_are_the_authors(output_stride, rates):
    with torch.device("meta"):
        network = MobileNetV2(output_stride=output_stride)
    assert [unit.depthwise.conv.dilation[0] for unit in network.units] == rates


def test_projections_are_linear_and_low_level_features_rectified_at_six():
    torch.manual_seed(0)
    network = MobileNetV2().eval()
    network.units[2].depthwise.bn.weight.data.fill_(1e6)
    with torch.inference_mode():
        features, low_level = network(torch.randn(1, 3, 65, 65))
    assert features.min() < 0
    assert low_level[4].min() == 0
    assert low_level[4].max() == 6
    assert low_level[4].shape[1] == 144


@pytest.mark.parametrize(
    ("value", "expected"),
    [(12, 16), (91, 88), (4, 8), (11.5, 16)],  # the last: 8 would lose more than a tenth
)
def test_make_divisible_never_loses_more_than_a_tenth(value, expected):
    assert make_divisible(value, 8) == expected


def test_one_sided_padding_applies_to_strides_of_the_graph_alone():
    with torch.device("meta"):
        network = MobileNetV2(output_stride=16, one_sided_padding=16)
    anchors = [unit.depthwise.conv.anchor for unit in network.units]
    assert network.conv.conv.anchor == "start"
    assert [i for i, anchor in enumerate(anchors) if anchor == "start"] == [1, 3, 6]
