import copy

import pytest
import torch
from torch import nn

from atrous.build import create_model
from atrous.layers import AtrousConv2d
from atrous.training.cpu.install import install
from tests.networks import random_network

FAMILIES = ["mobilenet_v2", "mobilenet_v3_small", "resnet50", "xception41", "timm/mobilenetv2_050"]


@pytest.mark.parametrize("backbone", FAMILIES)
def test_installing_keeps_names_weights_and_every_bit_of_an_evaluation(backbone):
    torch.manual_seed(0)
    model = random_network(backbone, num_classes=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randint(0, 256, (1, 3, 40, 33), dtype=torch.uint8)
    with torch.inference_mode():
        expected = model(images)
        install(model)
        assert torch.equal(model(images), expected)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("backbone", FAMILIES)
def test_an_update_moves_every_weight_as_torchs_own_layers_do(backbone):
    torch.manual_seed(0)
    plain = create_model(backbone, num_classes=3).to(memory_format=torch.channels_last).train()
    installed = copy.deepcopy(plain)
    install(installed)
    images = 255 * torch.rand(2, 3, 40, 33)
    gradients = []
    for model in (plain, installed):
        torch.manual_seed(1)  # dropout
        model(images).square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    expected, found = gradients
    for name, grad in expected.items():
        # Dilated depthwise convolutions sum in another order; all else is equal in every bit.
        assert (found[name] - grad).norm() <= 1e-3 * grad.norm() + 1e-6, name


def test_a_network_that_was_only_built_is_torchs_own():
    model = random_network("resnet50")
    files = {type(module).__module__ for module in model.modules()}
    assert not any(".training." in file for file in files)


def test_installing_twice_is_installing_once():
    model = random_network("mobilenet_v2")
    install(model)
    once = [type(module) for module in model.modules()]
    install(model)
    assert [type(module) for module in model.modules()] == once


@pytest.mark.parametrize("anchor", ["centre", "start"])
@pytest.mark.parametrize("rate", [2, 6])
def test_layer_gives_the_same_in_training_and_evaluation(anchor, rate):
    layer = AtrousConv2d(3, 3, 3, atrous_rate=rate, groups=3, anchor=anchor).double()
    install(layer)
    x = torch.randn(2, 3, 15, 14, dtype=torch.float64, requires_grad=True)
    training = layer.train()(x)
    assert type(training.grad_fn).__name__.startswith("_Depthwise")
    torch.testing.assert_close(training, layer.eval()(x))


@pytest.mark.parametrize("anchor", ["centre", "start"])
@pytest.mark.parametrize("size", [15, 16])
def test_strided_layer_in_bf16_has_torchs_gradients(anchor, size):
    torch.manual_seed(0)
    layer = AtrousConv2d(8, 8, 3, stride=2, groups=8, anchor=anchor)
    x = torch.randn(2, 8, size, size, requires_grad=True)
    gradients = []
    for fast in (False, True):
        if fast:
            install(layer)
        with torch.autocast("cpu", torch.bfloat16):
            y = layer.train()(x)
        assert type(y.grad_fn).__name__.startswith("_Depthwise") == fast
        gradients.append(torch.autograd.grad(y.float().square().sum(), (x, layer.weight)))
    for torchs, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=0.02, atol=0.02 * float(torchs.abs().max()))


@pytest.mark.parametrize("inplace", [False, True])
def test_relu6_has_the_gradient_of_torchs_and_keeps_no_copy(inplace):
    x = torch.linspace(-3, 9, 25, dtype=torch.float64, requires_grad=True)  # -3, -2.5 ... 0 ... 6
    grad = torch.randn(25, dtype=torch.float64)
    layer = nn.ReLU6(inplace=inplace)
    install(layer)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = layer(x * 1)
    assert torch.equal(y, nn.functional.relu6(x))
    expected = torch.autograd.grad(nn.functional.relu6(x), x, grad)[0]
    assert torch.equal(torch.autograd.grad(y, x, grad)[0], expected)
    if inplace:
        assert saved[-1].data_ptr() == y.data_ptr()
