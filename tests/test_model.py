import pytest
import torch
import torch.nn.functional as F

from atrous.build import BACKBONES, create_model
from atrous.classes import VOC
from atrous.errors import AtrousError
from atrous.model import DeepLabV3Plus
from tests.networks import random_network


@pytest.fixture(scope="module")
def model() -> DeepLabV3Plus:
    torch.manual_seed(0)
    return create_model("mobilenet_v2", num_classes=3).eval()


@pytest.mark.parametrize("size", [(1, 1), (65, 97), (500, 333), (513, 513), (1023, 769)])
@pytest.mark.parametrize("decoder", [True, False])
def test_logits_have_the_size_of_any_picture(size, decoder):
    network = random_network("mobilenet_v2", decoder=decoder)
    images = torch.zeros(1, 3, *size, dtype=torch.uint8)
    with torch.inference_mode():
        coarse, logits = network.coarse_logits(images), network(images)
    stride = 4 if decoder else 16
    assert coarse.shape[-2:] == (-(-size[0] // stride), -(-size[1] // stride))
    assert logits.shape == (1, 2, *size)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("output_stride", [4, 32])
def test_every_backbone_takes_tiny_pictures_at_any_stride(backbone, output_stride):
    network = random_network(backbone)
    network.set_output_stride(output_stride)
    with torch.inference_mode():
        for size in ((1, 1), (17, 41), (33, 2)):
            logits = network(torch.zeros(1, 3, *size))
            assert logits.shape == (1, 2, *size)
            assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("backbone", "decoder"),
    [("xception41", True), ("resnet50", False), ("mobilenet_v2", True), ("mobilenet_v2", False)],
)
def test_changed_output_stride_equals_a_fresh_model_bit_for_bit(backbone, decoder):
    changed = random_network(backbone, decoder=decoder)
    weights = {name: tensor.clone() for name, tensor in changed.state_dict().items()}
    images = torch.randint(0, 256, (1, 3, 50, 65), dtype=torch.uint8)
    for output_stride in (8, 32, 4):
        changed.set_output_stride(output_stride)
        with torch.device("meta"):
            fresh = create_model(
                backbone, num_classes=2, decoder=decoder, output_stride=output_stride
            )
        normalize = changed.normalize  # not part of the weights
        fresh.normalize = normalize
        fresh.load_state_dict(weights, assign=True)
        with torch.inference_mode():
            assert torch.equal(changed(images), fresh.eval()(images))
        assert changed.architecture == fresh.architecture
    assert all(torch.equal(tensor, weights[n]) for n, tensor in changed.state_dict().items())


def test_logits_are_upsampled_corner_to_corner_at_the_papers_size(model):
    images = torch.randint(0, 256, (1, 3, 65, 129), dtype=torch.uint8)
    with torch.inference_mode():
        coarse = model.coarse_logits(images)
        expected = F.interpolate(coarse, (65, 129), mode="bilinear", align_corners=True)
        assert torch.equal(model(images), expected)


def test_bytes_and_floats_of_the_same_picture_give_the_same(model):
    images = torch.randint(0, 256, (1, 3, 33, 33), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(model(images), model(images.float()))


def test_a_batch_of_one_trains():
    torch.manual_seed(0)
    network = create_model("mobilenet_v2", num_classes=3).train()
    loss = network(torch.rand(1, 3, 33, 33) * 255).square().mean()
    loss.backward()
    gradients = [p.grad for p in network.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)


def test_training_mode_uses_batch_statistics_and_evaluation_mode_running_ones():
    torch.manual_seed(0)
    network = create_model("mobilenet_v2", num_classes=3)
    images = torch.rand(2, 3, 33, 33) * 255
    before = network.normalize(images).mean()
    bn = network.encoder.backbone.conv.bn
    with torch.no_grad():
        network.eval()(images)
        assert bn.running_mean.abs().max() == 0
        network.train()(images)
    assert before.isfinite()
    assert bn.running_mean.abs().max() > 0


def test_frozen_batch_norm_stays_frozen_in_training_and_still_learns():
    torch.manual_seed(0)
    network = create_model("mobilenet_v2", num_classes=3).freeze_batch_norm().train()
    assert network.training
    assert network.encoder.aspp.dropout.training
    statistics = {n: b.clone() for n, b in network.named_buffers() if "running" in n}
    network(torch.rand(2, 3, 33, 33) * 255).square().mean().backward()
    assert all(torch.equal(b, dict(network.named_buffers())[n]) for n, b in statistics.items())
    assert network.encoder.backbone.conv.bn.weight.grad.abs().sum() > 0
    assert network.freeze_batch_norm(False).encoder.backbone.conv.bn.training


def test_a_frozen_backbone_stays_and_the_rest_learns():
    torch.manual_seed(0)
    network = create_model("mobilenet_v2", num_classes=3).train().freeze_backbone()
    before = {n: t.clone() for n, t in network.encoder.backbone.state_dict().items()}
    moved = network.encoder.aspp.project.bn.running_mean.clone()
    network(torch.rand(2, 3, 33, 33) * 255).square().mean().backward()
    after = network.encoder.backbone.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    learning = {name for name, p in network.named_parameters() if p.grad is not None}
    assert learning == {n for n, _ in network.named_parameters() if "backbone" not in n}
    assert not torch.equal(network.encoder.aspp.project.bn.running_mean, moved)


@pytest.mark.parametrize("shape", [(3, 33, 33), (1, 4, 33, 33), (1, 33, 33, 3), (1, 3, 0, 33)])
def test_wrong_shapes_are_refused(model, shape):
    with pytest.raises(AtrousError, match="E-IMAGES-SHAPE"):
        model(torch.zeros(shape))


def test_classes_can_be_named_only_by_as_many_names(model):
    with pytest.raises(AtrousError, match="E-CLASSES"):
        model.name_classes(VOC)


def test_given_rates_follow_the_stride_in_the_architecture_too():
    with torch.device("meta"):
        network = create_model("mobilenet_v2", num_classes=2, atrous_rates=(4, 8))
    network.set_output_stride(8)
    assert network.architecture.atrous_rates == network.encoder.aspp.atrous_rates == (8, 16)
