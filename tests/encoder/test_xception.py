import pytest
import torch

from atrous.encoder.xception import Xception


def geometry(conv):
    return conv.stride[0], conv.dilation[0]


@pytest.mark.parametrize(
    ("variant", "entry_blocks", "middle_units", "low_level_block"),
    [("xception41", 3, 8, 1), ("xception65", 3, 16, 1), ("xception71", 5, 16, 2)],
)
def test_flows_have_the_papers_lengths(variant, entry_blocks, middle_units, low_level_block):
    with torch.device("meta"):
        network = Xception(variant)
    assert len(network.entry_flow) == entry_blocks
    assert len(network.middle_flow) == middle_units
    assert len(network.exit_flow) == 2
    channels = network.entry_flow[low_level_block].separable2.pointwise.conv.out_channels
    assert channels == network.low_level_channels[4] == 256


def test_max_pooling_is_replaced_by_strided_separable_convolution():
    with torch.device("meta"):
        network = Xception("xception65", output_stride=32)
    assert not [m for m in network.modules() if "Pool" in type(m).__name__]
    for block in network.entry_flow:
        assert geometry(block.separable3.depthwise.conv) == (2, 1)
        assert geometry(block.separable1.depthwise.conv) == (1, 1)


@pytest.mark.parametrize(
    ("output_stride", "last_entry", "middle", "exit1", "exit2"),
    [
        (32, (2, 1), (1, 1), (2, 1), (1, 1)),
        (16, (2, 1), (1, 1), (1, 1), (1, 2)),
        (8, (1, 1), (1, 2), (1, 2), (1, 4)),
    ],
)
def test_strides_and_rates_are_the_authors(output_stride, last_entry, middle, exit1, exit2):
    with torch.device("meta"):
        network = Xception("xception65", output_stride=output_stride)
    for module, expected in (
        (network.entry_flow[-1], last_entry),
        (network.middle_flow[7], middle),
        (network.exit_flow[0], exit1),
        (network.exit_flow[1], exit2),
    ):
        assert geometry(module.separable3.depthwise.conv) == expected


def test_multi_grid_multiplies_the_rates_of_the_last_block_alone():
    with torch.device("meta"):
        network = Xception("xception65", multi_grid=(1, 2, 4))
    last = network.exit_flow[1]
    convs = (last.separable1, last.separable2, last.separable3)
    assert [c.depthwise.conv.dilation[0] for c in convs] == [2, 4, 8]
    assert network.exit_flow[0].separable3.depthwise.conv.dilation == (1, 1)


def test_shortcuts_take_the_raw_input():
    torch.manual_seed(0)
    module = Xception("xception41").middle_flow[0].eval()
    module.separable3.pointwise.bn.weight.data.zero_()  # silences the residual branch
    x = -torch.rand(1, 728, 5, 5)
    output, _ = module(x)
    assert torch.equal(output, x)


def relus_after_depthwise(network):
    return [
        type(separable.depthwise.activation).__name__
        for flow in (network.entry_flow, network.middle_flow, network.exit_flow)
        for module in flow
        for separable in (module.separable1, module.separable2, module.separable3)
    ]


def test_released_code_rectifies_after_depthwise_in_the_last_block_alone():
    with torch.device("meta"):
        found = relus_after_depthwise(Xception("xception65"))
    assert found[-3:] == ["ReLU"] * 3
    assert set(found[:-3]) == {"Identity"}


def test_papers_variant_rectifies_after_every_depthwise_convolution():
    with torch.device("meta"):
        found = relus_after_depthwise(Xception("xception65", relu_after_depthwise=True))
    assert set(found) == {"ReLU"}


def test_low_level_features_are_not_rectified_and_output_is():
    torch.manual_seed(0)
    with torch.inference_mode():
        features, low_level = Xception("xception41").eval()(torch.randn(1, 3, 33, 33))
    assert low_level[4].min() < 0
    assert features.min() >= 0
