from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from atrous.build import create_model
from atrous.errors import AtrousError
from atrous.layers import ConvBN
from atrous.model import DeepLabV3Plus
from atrous.training.batch_norm import (
    SyncedBatchNorm2d,
    batch_norms,
    dead_channels,
    restore_folded,
    set_momentum,
    statistics_untouched,
    synchronize,
)
from tests.networks import recalibrate


@pytest.fixture
def model() -> DeepLabV3Plus:
    torch.manual_seed(0)
    return create_model("mobilenet_v2", num_classes=3, depth_multiplier=0.25)


def _images(seed: int, n: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 255 * torch.rand(n, 3, 33, 33, generator=generator)


def test_set_momentum_reaches_every_layer(model: DeepLabV3Plus) -> None:
    set_momentum(model, 0.1)
    assert {module.momentum for _, module in batch_norms(model)} == {0.1}


def _fold(model: DeepLabV3Plus) -> None:
    """Folds batch norm as an exporter does, and makes it the identity as our importer does."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ConvBN):
                bn = module.bn
                scale = bn.weight / (bn.running_var + bn.eps).sqrt()
                module.conv.weight.mul_(scale[:, None, None, None])
                bn.bias.sub_(scale * bn.running_mean)
                bn.weight.fill_(1)
                bn.running_mean.zero_()
                bn.running_var.fill_(1 - bn.eps)


def test_restoring_folded_batch_norm_leaves_outputs_unchanged(model: DeepLabV3Plus) -> None:
    model.double()  # float32 rounds differently on every kind of processor
    recalibrate(model, [_images(1)])
    _fold(model)
    before = model.eval()(_images(2))
    restored = restore_folded(model, [_images(3), _images(4)])
    after = model.eval()(_images(2))
    assert len(restored) == len(list(batch_norms(model)))
    assert before.dtype == torch.float64
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9 * before.std().item())


def test_restored_batch_norm_can_train(model: DeepLabV3Plus) -> None:
    """Folded, training mode would compute another network; restored, nearly the same one."""
    recalibrate(model, [_images(1, 8)])
    _fold(model)
    model.encoder.aspp.dropout.p = 0.0
    before = model.eval()(_images(2, 8))
    folded_gap = (model.train()(_images(2, 8)) - before).abs().mean()
    _fold(model)  # the pass above moved the statistics: identity again
    model.eval()
    for _, module in batch_norms(model):
        module.running_mean.zero_()
        module.running_var.fill_(1 - module.eps)
    restore_folded(model, [_images(2, 8)])
    restored_gap = (model.train()(_images(2, 8)) - model.eval()(_images(2, 8))).abs().mean()
    assert restored_gap < 0.5 * folded_gap


def test_nothing_is_restored_where_nothing_was_folded(model: DeepLabV3Plus) -> None:
    assert restore_folded(model, [_images(0)]) == []


def test_imported_tflite_weights_are_restored(shared: Path) -> None:
    from atrous import from_tflite

    model = from_tflite(shared / "weights" / "deeplabv3_mnv2_pascal_quant.tflite")
    before = model.eval()(_images(0))
    assert restore_folded(model, [_images(0)])
    after = model(_images(0))
    assert (after - before).abs().max() < 1e-3 * before.std()


def test_statistics_can_be_left_alone(model: DeepLabV3Plus) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with statistics_untouched(model):
        model.train()(_images(0))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_dead_channels_are_found(model: DeepLabV3Plus) -> None:
    assert dead_channels(model) == {}
    model.decoder.stages[0].reduce.bn.running_var.zero_()
    assert dead_channels(model) == {"decoder.stages.0.reduce.bn": 1.0}


def test_synced_batch_norm_of_one_process_is_torchs() -> None:
    torch.manual_seed(0)
    ours, torchs = SyncedBatchNorm2d(3).double(), nn.BatchNorm2d(3).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    grads = [torch.autograd.grad((bn(x) * weight).sum(), x)[0] for bn in (ours, torchs)]
    torch.testing.assert_close(grads[0], grads[1])
    torch.testing.assert_close(ours.state_dict(), torchs.state_dict())


def test_synchronizing_keeps_weights_and_their_names(model: DeepLabV3Plus) -> None:
    before = list(model.state_dict())
    synchronize(model)
    assert list(model.state_dict()) == before
    assert all(type(module) is SyncedBatchNorm2d for _, module in batch_norms(model))


TIMM_FAMILIES = [
    "efficientnet_b0", "regnety_002", "mobilenetv3_small_050", "resnet10t", "inception_v3",
    "ghostnet_050", "mnasnet_050", "densenet121", "dla34", "hrnet_w18_small", "vovnet39a",
]  # fmt: skip


@pytest.mark.parametrize("name", TIMM_FAMILIES)
def test_synchronized_networks_of_timm_compute_what_they_did(name: str) -> None:
    """One process: the same logits, gradients and statistics, activations of timm included."""
    torch.manual_seed(0)
    network = timm.create_model(name, drop_rate=0.0, num_classes=5).double().train()
    start = {n: t.clone() for n, t in network.state_dict().items()}
    side = 75 if name == "inception_v3" else 32
    images = torch.randn(4, 3, side, side, dtype=torch.float64)
    results = []
    for change in (lambda model: None, synchronize):
        change(network)
        network.load_state_dict(start)
        network.zero_grad()
        torch.manual_seed(1)
        logits = network(images)[..., :5]
        logits.square().mean().backward()
        gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
        results.append([logits.detach(), *gradients, *map(torch.clone, network.buffers())])
    assert len(results[0]) == len(results[1])
    for plain, synced in zip(*results, strict=True):
        assert (plain - synced).abs().max() <= 1e-6 * plain.abs().max() + 1e-9
    assert all(not m.training or "Synced" in type(m).__name__ for _, m in batch_norms(network))


class _Scaled(nn.BatchNorm2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 3 * super().forward(input)


@pytest.mark.parametrize("kind", [_Scaled, nn.BatchNorm1d, nn.BatchNorm3d])
@pytest.mark.parametrize("affine", [True, False])
def test_any_subclass_keeps_what_it_does(kind: type, affine: bool) -> None:
    shape = {nn.BatchNorm1d: (6, 3), nn.BatchNorm3d: (2, 3, 2, 4, 5)}.get(kind, (2, 3, 4, 5))
    x = torch.randn(shape, dtype=torch.float64)
    plain, synced = kind(3, affine=affine).double(), kind(3, affine=affine).double()
    synchronize(synced)
    torch.testing.assert_close(synced(x), plain(x))
    torch.testing.assert_close(synced.state_dict(), plain.state_dict())
    torch.testing.assert_close(synced.eval()(x), plain.eval()(x))


def test_a_class_that_cannot_be_synchronized_says_so() -> None:
    class ByHand(nn.BatchNorm2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return (input - input.mean((0, 2, 3), keepdim=True)) * F.relu(self.weight[0])

    layer = ByHand(3)
    synchronize(layer)
    with pytest.raises(AtrousError) as caught:
        layer(torch.randn(2, 3, 4, 5))
    assert caught.value.code == "E-BATCH-NORM-SYNC"


def folded_network() -> DeepLabV3Plus:
    torch.manual_seed(0)
    model = create_model("mobilenet_v2", num_classes=3, depth_multiplier=0.25)
    recalibrate(model, [_images(7)])
    _fold(model)
    return model
