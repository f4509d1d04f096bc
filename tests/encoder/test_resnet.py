import pytest
import torch

from atrous.encoder.resnet import ResNet


def geometry(network):
    """Stride and rate of each unit's 3x3, block by block."""
    return [[(u.conv2.conv.stride[0], u.conv2.conv.dilation[0]) for u in b] for b in network.blocks]


def test_stride_sits_in_the_last_unit_of_a_block():
    with torch.device("meta"):
        blocks = geometry(ResNet("resnet50", output_stride=32))
    assert [[stride for stride, _ in block] for block in blocks] == [
        [1, 1, 2],
        [1, 1, 1, 2],
        [1, 1, 1, 1, 1, 2],
        [1, 1, 1],
    ]


@pytest.mark.parametrize(
    ("output_stride", "block2", "block3", "block4"),
    [
        (32, {1}, {1}, [1, 2, 4]),
        (16, {1}, {1}, [2, 4, 8]),
        (8, {1}, {2}, [4, 8, 16]),
    ],
)
def test_rates_and_multi_grid_are_the_authors(output_stride, block2, block3, block4):
    with torch.device("meta"):
        blocks = geometry(ResNet("resnet101", output_stride=output_stride))
    rates = [[rate for _, rate in block] for block in blocks]
    assert [set(rates[1]), set(rates[2]), rates[3]] == [block2, block3, block4]
    assert [len(block) for block in blocks] == [3, 4, 23, 3]


@pytest.mark.parametrize(
    ("stem", "kernels", "channels"), [("beta", [3, 3, 3], 128), ("plain", [7], 64)]
)
def test_stems(stem, kernels, channels):
    with torch.device("meta"):
        network = ResNet("resnet50", stem=stem)
    assert [layer.conv.kernel_size[0] for layer in network.stem] == kernels
    assert network.stem[-1].conv.out_channels == channels


def test_low_level_features_are_the_residual_branch_before_relu():
    torch.manual_seed(0)
    network = ResNet("resnet50").eval()
    seen = {}
    unit = network.blocks[0][1]
    unit.conv3.register_forward_hook(lambda _m, _i, output: seen.update(residual=output))
    with torch.inference_mode():
        _, low_level = network(torch.randn(1, 3, 33, 33))
    assert torch.equal(low_level[4], seen["residual"])
    assert low_level[4].min() < 0


def test_identity_shortcut_past_a_stride_is_subsampled():
    torch.manual_seed(0)
    unit = ResNet("resnet50", output_stride=32).blocks[0][2].eval()
    unit.conv3.bn.weight.data.zero_()
    x = torch.rand(1, 256, 7, 6)
    assert torch.equal(unit(x)[0], x[..., ::2, ::2])
