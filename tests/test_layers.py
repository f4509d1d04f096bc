import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from atrous.layers import (
    HEAD,
    MOBILENET_V2,
    RESNET,
    XCEPTION,
    AtrousConv2d,
    AtrousSeparableConv,
    ConvBN,
    Normalize,
    PooledBatchNorm2d,
    resize,
)
from tests import reference


@pytest.mark.parametrize("size", [(7, 9), (8, 6), (1, 1), (1, 5)])
@pytest.mark.parametrize(("stride", "rate"), [(1, 1), (2, 1), (1, 3), (2, 2)])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_atrous_convolution_matches_naive_loop(size, stride, rate, kernel_size):
    conv = AtrousConv2d(1, 1, kernel_size, stride=stride, atrous_rate=rate).double()
    image = torch.randn(1, 1, *size, dtype=torch.float64)
    expected = reference.convolve(
        image[0, 0].numpy(), conv.weight.detach()[0, 0].numpy(), stride=stride, rate=rate
    )
    np.testing.assert_allclose(conv(image).detach()[0, 0], expected, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 8), (16, 12)])
def test_start_anchor_is_tensorflows_same_padding_at_even_sizes(size):
    conv = AtrousConv2d(2, 3, 3, stride=2, anchor="start")
    image = torch.randn(1, 2, *size)
    padded = F.pad(image, (0, 1, 0, 1))  # SAME at stride 2 and even sizes: 0 before, 1 after
    expected = F.conv2d(padded, conv.weight, stride=2)
    torch.testing.assert_close(conv(image), expected)


@pytest.mark.parametrize("anchor", ["centre", "start"])
@pytest.mark.parametrize("size", [(13, 13), (12, 9), (1, 1)])
def test_removing_a_stride_keeps_every_value_that_remains(anchor, size):
    strided = AtrousConv2d(2, 2, 3, stride=2, anchor=anchor)
    image = torch.randn(1, 2, *size)
    expected = strided(image)
    strided.set_stride_and_rate(1, 1)
    torch.testing.assert_close(strided(image)[..., ::2, ::2], expected)


def test_separable_convolution_matches_its_formula():
    layer = AtrousSeparableConv(3, 4, HEAD).eval().double()
    layer.set_stride_and_rate(1, 2)
    x = torch.randn(1, 3, 9, 9, dtype=torch.float64)
    scale = (1 + HEAD.epsilon) ** -0.5  # batch norm at its start
    depthwise = np.stack(
        [
            reference.convolve(x[0, c].numpy(), kernel[0].numpy(), rate=2)
            for c, kernel in enumerate(layer.depthwise.conv.weight.detach())
        ]
    )
    between = np.maximum(depthwise * scale, 0)
    mixing = layer.pointwise.conv.weight.detach()[:, :, 0, 0].numpy()
    expected = np.maximum(np.einsum("oc,chw->ohw", mixing, between) * scale, 0)
    np.testing.assert_allclose(layer(x).detach()[0], expected, atol=1e-12)


def test_separable_convolution_leaves_the_callers_input_alone():
    layer = AtrousSeparableConv(3, 3, XCEPTION, relu_before=True).eval()
    x = -torch.ones(1, 3, 4, 4)
    layer(x)
    assert (x == -1).all()


@pytest.mark.parametrize(
    ("convention", "epsilon", "momentum", "activation"),
    [
        (XCEPTION, 1e-3, 0.0003, nn.ReLU),
        (RESNET, 1e-5, 0.05, nn.ReLU),
        (MOBILENET_V2, 1e-3, 0.003, nn.ReLU6),
        (HEAD, 1e-5, 0.0003, nn.ReLU),
    ],
    ids=["xception", "resnet", "mobilenet_v2", "head"],
)
def test_batch_norm_and_activation_are_the_authors(convention, epsilon, momentum, activation):
    layer = ConvBN(4, 4, 1, convention)
    assert layer.bn.eps == epsilon
    assert layer.bn.momentum == momentum
    assert type(layer.activation) is activation
    assert layer.conv.bias is None


TRUNCATION = 0.8796  # standard deviation of a normal cut at two standard deviations


@pytest.mark.parametrize(
    ("layer", "std"),
    [
        (ConvBN(256, 256, 3, XCEPTION), 0.09 * TRUNCATION),
        (ConvBN(256, 256, 1, MOBILENET_V2), 0.09 * TRUNCATION),
        (ConvBN(256, 256, 3, RESNET), (2.6 / (9 * 256)) ** 0.5 * TRUNCATION),
        (ConvBN(256, 256, 1, HEAD), (2 / 512) ** 0.5),  # xavier: variance 2 / (in + out)
        (AtrousSeparableConv(2048, 256, HEAD).depthwise, 0.33 * TRUNCATION),
        (AtrousSeparableConv(2048, 256, HEAD).pointwise, 0.06 * TRUNCATION),
    ],
    ids=["xception", "mobilenet_v2", "resnet", "head", "head depthwise", "head pointwise"],
)
def test_weights_start_as_the_authors_do(layer, std):
    assert layer.conv.weight.std().item() == pytest.approx(std, rel=0.03)


@pytest.mark.parametrize("factor", [2, 4, 16])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_resize_is_align_corners_at_sizes_of_k_strides_plus_one(factor, length):
    features = torch.randn(2, 3, length, length + 1)
    size = ((length - 1) * factor + 1, length * factor + 1)
    expected = F.interpolate(features, size, mode="bilinear", align_corners=True)
    assert torch.equal(resize(features, 4 * factor, 4, size), expected)


@pytest.mark.parametrize("size", [(1, 1), (63, 64), (65, 66), (50, 33)])
@pytest.mark.parametrize(("from_stride", "to_stride"), [(16, 1), (16, 4), (4, 1), (32, 8)])
def test_resized_features_stay_at_their_pixels(size, from_stride, to_stride):
    rows = torch.arange(-(-size[0] // from_stride), dtype=torch.float64) * from_stride
    columns = torch.arange(-(-size[1] // from_stride), dtype=torch.float64) * from_stride
    features = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
    target = (-(-size[0] // to_stride), -(-size[1] // to_stride))
    result = resize(features, from_stride, to_stride, target)
    for axis, last in ((0, rows[-1]), (1, columns[-1])):
        position = (torch.arange(target[axis]) * to_stride).clamp(max=last)  # the pixel, clamped
        found = result[0, axis].select(1 - axis, 0)
        torch.testing.assert_close(found, position.double())


def test_resize_to_a_coarser_stride_takes_the_features_that_lie_there():
    features = torch.arange(10.0).view(1, 1, 1, 10).expand(1, 1, 7, 10)
    result = resize(features, 4, 8, (4, 5))
    assert result[0, 0, 0].tolist() == [0, 2, 4, 6, 8]
    assert result.shape[-2:] == (4, 5)


def test_T12_batch_norm_of_one_value_uses_running_statistics_and_says_so_once(caplog):
    layer = PooledBatchNorm2d(3).train()
    layer.running_mean.fill_(1)
    x = torch.randn(1, 3, 1, 1)
    result = layer(x)
    layer(x)
    torch.testing.assert_close(result, (x - 1) / (1 + layer.eps) ** 0.5)
    assert (layer.running_mean == 1).all()
    assert len(caplog.records) == 1


def test_pooled_batch_norm_of_two_values_is_ordinary():
    ours, theirs = PooledBatchNorm2d(3).train(), nn.BatchNorm2d(3).train()
    x = torch.randn(2, 3, 1, 1)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.running_var, theirs.running_var)


def test_normalize_maps_bytes_to_minus_one_and_one():
    normalize = Normalize((127.5,), (127.5,))
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)
    assert normalize(images).flatten().tolist() == [-1, 1]
