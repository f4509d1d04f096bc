from pathlib import Path

import pytest
import torch
from torch import nn

from atrous.build import create_model
from atrous.layers import ConvBN
from atrous.model import DeepLabV3Plus
from atrous.training.batch_norm import (
    SyncedBatchNorm2d,
    batch_norms,
    dead_channels,
    recalibrate,
    restore_folded,
    set_momentum,
    statistics_untouched,
    synchronize,
)


@pytest.fixture
def model() -> DeepLabV3Plus:
    torch.manual_seed(0)
    return create_model("mobilenet_v2", num_classes=3, depth_multiplier=0.25)


def _images(seed: int, n: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 255 * torch.rand(n, 3, 33, 33, generator=generator)


def test_recalibrated_network_evaluates_as_it_trains() -> None:
    """With the statistics of a batch, the loss in evaluation equals that in training on it."""
    torch.manual_seed(0)
    model = create_model("mobilenet_v2", num_classes=3, depth_multiplier=0.25, image_pooling=False)
    model.encoder.aspp.dropout.p = 0.0
    images = torch.nn.functional.interpolate(_images(0), (129, 129))
    with torch.no_grad():
        uncalibrated = model.eval()(images)
        recalibrate(model, [images])
        training = model.train()(images)
        recalibrate(model, [images])  # the pass above moved them
        evaluation = model.eval()(images)
    gap = (training - evaluation).abs().mean()
    assert gap < 0.25 * training.std()
    assert gap < 0.25 * (training - uncalibrated).abs().mean()


def test_recalibration_averages_batches() -> None:
    bn = nn.BatchNorm2d(1, momentum=3e-4)
    recalibrate(bn, [torch.full((2, 1, 2, 2), 1.0), torch.full((2, 1, 2, 2), 4.0)])
    assert bn.running_mean.item() == 2.5
    assert bn.momentum == 3e-4


def test_recalibration_leaves_a_frozen_backbone_alone() -> None:
    model = create_model("mobilenet_v2", num_classes=3, depth_multiplier=0.25).freeze_backbone()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    recalibrate(model, [torch.rand(2, 3, 33, 33) * 255])
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed
    assert not any("backbone" in name for name in changed)


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
    recalibrate(model, [_images(1)])
    _fold(model)
    before = model.eval()(_images(2))
    restored = restore_folded(model, [_images(3), _images(4)])
    after = model.eval()(_images(2))
    assert len(restored) == len(list(batch_norms(model)))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4 * before.std().item())


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
