import pytest
import torch

from atrous.cost import measure, parameters
from atrous.encoder.mobilenet_v3 import MobileNetV3, SqueezeExcite
from tests.networks import random_network

LR_ASPP = {"head": "lr_aspp", "decoder_strides": (8,), "reduced_channels": None, "refine": ()}


@pytest.mark.parametrize(
    ("variant", "channels", "low_level"),
    [
        ("mobilenet_v3_large", 480, {4: 72, 8: 120, 16: 672}),
        ("mobilenet_v3_small", 288, {4: 16, 8: 88, 16: 144}),
    ],
)
def test_channels_are_the_authors(variant, channels, low_level):
    with torch.device("meta"):
        network = MobileNetV3(variant)
    assert network.channels == channels
    assert network.low_level_channels == low_level


@pytest.mark.parametrize(
    ("variant", "millions", "giga_multiply_adds"),
    [("mobilenet_v3_large", 1.507, 7.58), ("mobilenet_v3_small", 0.469, 1.96)],
)
def test_lr_aspp_models_cost_what_the_fact_sheet_counts(variant, millions, giga_multiply_adds):
    model = random_network(variant, num_classes=19, output_stride=32, **LR_ASPP)
    assert parameters(model) / 1e6 == pytest.approx(millions, abs=0.0005)
    found = measure(model, (1025, 2049)).multiply_adds / 1e9
    assert found == pytest.approx(giga_multiply_adds, abs=0.005)


@pytest.mark.parametrize(("channels", "squeezed"), [(16, 8), (72, 24), (120, 32), (672, 168)])
def test_squeezed_channels_are_a_quarter_in_multiples_of_eight(channels, squeezed):
    assert SqueezeExcite(channels).reduce.out_channels == squeezed


def test_gates_scale_whole_channels_between_nothing_and_everything():
    gates = SqueezeExcite(16)
    for bias, gate in ((-3.0, 0.0), (0.0, 0.5), (9.0, 1.0)):
        gates.expand.weight.data.zero_()
        gates.expand.bias.data.fill_(bias)
        with torch.inference_mode():
            assert torch.allclose(gates(torch.ones(1, 16, 2, 2)), torch.tensor(gate), atol=1e-4)


def test_a_unit_of_the_small_network_gains_its_shortcut_with_its_rate():
    network = random_network("mobilenet_v3_small").encoder.backbone
    unit = network.units[8]
    unit.project.bn.weight.data.zero_()
    unit.project.bn.bias.data.zero_()
    features = torch.randn(1, 48, 4, 4)
    with torch.inference_mode():
        network.set_output_stride(32)
        assert not unit(features)[0].any()
        network.set_output_stride(16)
        assert torch.equal(unit(features)[0], features)
