import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atrous.layers import RESNET, ConvBN
from atrous.training.cpu.install import install
from atrous.training.cpu.recompute import normalize, nothing_made_again, origin_of, reading, rectify
from tests.networks import random_network


def _layer() -> tuple[ConvBN, Tensor]:
    torch.manual_seed(0)
    layer = ConvBN(3, 4, 3, RESNET).train()
    install(layer)
    return layer, torch.randn(2, 3, 8, 9)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet50", "xception41"])
def test_loss_gradients_and_statistics_are_equal_in_every_bit(backbone: str, frozen: bool) -> None:
    torch.manual_seed(0)
    model = random_network(backbone, num_classes=3).to(memory_format=torch.channels_last)
    install(model.freeze_batch_norm(frozen).train())
    start = {name: value.clone() for name, value in model.state_dict().items()}
    images = 255 * torch.rand(2, 3, 40, 33)

    def step() -> list[Tensor]:
        model.load_state_dict(start)
        model.zero_grad()
        torch.manual_seed(1)  # dropout
        loss = model(images).square().mean()
        loss.backward()
        return [loss, *(p.grad for p in model.parameters()), *map(torch.clone, model.buffers())]

    with nothing_made_again():
        expected = step()
    assert all(torch.equal(a, b) for a, b in zip(step(), expected, strict=True))


def test_normalised_features_are_gone_after_the_layer_that_reads_them() -> None:
    layer, x = _layer()
    weight = torch.randn(5, 4, 1, 1, requires_grad=True)

    def survives() -> bool:
        y = layer(x)
        with reading(y):
            z = F.conv2d(y, weight)
        kept = weakref.ref(y)
        del y
        return kept() is not None and z.requires_grad

    assert not survives()
    with nothing_made_again():
        assert survives()


def test_features_are_made_again_once_for_all_their_readers() -> None:
    layer, x = _layer()
    y = layer(x)
    origin = origin_of(y)
    assert origin is not None
    made = []
    make, origin.make = origin.make, lambda: made.append(make()) or made[-1]  # type: ignore[func-returns-value]
    with reading(y):
        loss = y.square().sum() + y.pow(3).sum()
    loss.backward(retain_graph=True)
    assert len(made) == 1
    assert torch.equal(made[0], y)
    first = layer.conv.weight.grad.clone()
    loss.backward()
    torch.testing.assert_close(layer.conv.weight.grad, 2 * first)


def test_a_tensor_that_was_written_to_has_no_origin() -> None:
    layer, x = _layer()
    normalised = normalize(layer.conv(x), layer.bn, nn.Identity())
    assert origin_of(normalised) is not None
    assert origin_of(rectify(normalised)) is not None
    normalised += 1
    assert origin_of(normalised) is None
    assert origin_of(rectify(normalised)) is None


def test_activations_whose_gradient_needs_their_input_keep_it() -> None:
    layer, x = _layer()
    y = normalize(layer.conv(x), layer.bn, nn.Hardswish(inplace=True))
    assert origin_of(y) is None
