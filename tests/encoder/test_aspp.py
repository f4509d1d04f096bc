import pytest
import torch

from atrous.encoder.aspp import ASPP
from atrous.layers import AtrousSeparableConv, ConvBN


@pytest.mark.parametrize(
    ("output_stride", "rates"),
    [(32, (3, 6, 9)), (16, (6, 12, 18)), (8, (12, 24, 36)), (4, (24, 48, 72))],
)
def test_rates_follow_the_output_stride(output_stride, rates):
    built = ASPP(8, output_stride=output_stride)
    changed = ASPP(8, output_stride=16)
    changed.set_output_stride(output_stride)
    for aspp in (built, changed):
        assert aspp.atrous_rates == rates
        assert tuple(b.depthwise.conv.dilation[0] for b in aspp.atrous) == rates
        assert tuple(b.depthwise.conv.padding[0] for b in aspp.atrous) == rates


def test_given_rates_hold_at_stride_16_and_double_at_half_of_it():
    aspp = ASPP(8, output_stride=8, rates_at_16=(1, 2))
    assert aspp.atrous_rates == (2, 4)
    aspp.set_output_stride(16)
    assert aspp.atrous_rates == (1, 2)


def test_concatenation_starts_with_image_pooling_then_pointwise():
    aspp = ASPP(8).eval()
    seen = {}
    aspp.project.register_forward_hook(lambda _m, inputs, _o: seen.update(concat=inputs[0]))
    features = torch.randn(1, 8, 9, 9)
    with torch.inference_mode():
        aspp(features)
        pooled = aspp.image_pooling(features.mean((2, 3), keepdim=True)).expand(-1, -1, 9, 9)
        branches = [pooled, aspp.pointwise(features), *(branch(features) for branch in aspp.atrous)]
    assert torch.equal(seen["concat"], torch.cat(branches, 1))


@pytest.mark.parametrize("separable", [True, False])
def test_branches_are_separable_or_dense(separable):
    aspp = ASPP(8, separable=separable)
    kind = AtrousSeparableConv if separable else ConvBN
    assert all(isinstance(branch, kind) for branch in aspp.atrous)
    assert aspp.project.conv.in_channels == 5 * 256


def test_separable_branches_rectify_after_depthwise_and_pointwise():
    branch = ASPP(8).atrous[0]
    assert isinstance(branch.depthwise.activation, torch.nn.ReLU)
    assert isinstance(branch.pointwise.activation, torch.nn.ReLU)


def test_heads_without_branches_or_pooling():
    assert ASPP(8, rates_at_16=()).project.conv.in_channels == 2 * 256
    assert ASPP(8, image_pooling=False).project.conv.in_channels == 4 * 256


def test_dropout_is_a_tenth_of_single_values():
    assert isinstance(ASPP(8).dropout, torch.nn.Dropout)  # not Dropout2d
    assert ASPP(8).dropout.p == 0.1


def test_image_pooling_of_a_stride_says_the_same_at_any_output_stride():
    aspp = ASPP(8, output_stride=16, rates_at_16=(), pooling_stride=16).eval()
    features = torch.randn(1, 8, 9, 13)
    coarse = aspp(features[..., ::2, ::2])
    aspp.set_output_stride(8)
    torch.testing.assert_close(aspp(features)[..., ::2, ::2], coarse)
    aspp.set_output_stride(32)
    assert aspp.pooling_step == 1
