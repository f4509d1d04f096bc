import numpy as np
import pytest
import torch

from atrous.build import create_model
from atrous.images import read_image
from atrous.weights.folding import is_folded, restore_batch_norm
from tests.networks import random_network

PTQ = "weights/tf2_mobilenet_v2_1.0_224_ptq.tflite"


def folded(network):
    """Makes batch norms identities with an offset, as importing a quantised file does."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.fill_(1)
            module.running_mean.zero_()
            module.running_var.fill_(1 - module.eps)
    return network


def test_restoring_batch_norm_changes_no_output():
    torch.manual_seed(0)
    network = folded(random_network("mobilenet_v2").encoder.backbone)
    assert is_folded(network)
    images = torch.randn(2, 3, 65, 65)
    with torch.inference_mode():
        before = network(images)[0]
        restore_batch_norm(network, torch.randn(4, 3, 65, 65))
        after = network(images)[0]
    assert (after - before).abs().max() < 1e-3 * before.std()
    assert not network.training
    assert not is_folded(network)


def test_restored_statistics_are_those_of_the_pictures():
    torch.manual_seed(0)
    network = folded(random_network("mobilenet_v2").encoder.backbone)
    images = torch.randn(4, 3, 65, 65)
    restore_batch_norm(network, images)
    with torch.inference_mode():
        signal = network.conv.conv(images)
    torch.testing.assert_close(network.conv.bn.running_mean, signal.mean((0, 2, 3)))
    expected = signal.var((0, 2, 3), correction=0)
    torch.testing.assert_close(network.conv.bn.running_var, expected)


def test_ordinary_networks_are_not_folded():
    assert not is_folded(random_network("mobilenet_v2"))
    assert not is_folded(create_model("mobilenet_v2", num_classes=2))


def photographs(shared, start, count):
    paths = sorted((shared / "data/voc2012/JPEGImages").glob("*.jpg"))[start::40][:count]
    arrays = [np.array(read_image(path).resize((160, 160))) for path in paths]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def test_photographs_bring_training_mode_close_to_evaluation_mode(shared):
    model = create_model("mobilenet_v2", num_classes=2, pretrained=shared / PTQ)
    backbone, images = model.encoder.backbone, model.normalize(photographs(shared, 0, 12))
    assert is_folded(backbone)

    def agreement():
        with torch.inference_mode():
            expected = backbone.eval()(images)[0].flatten()
            state = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
            found = backbone.train()(images)[0].flatten()
            backbone.load_state_dict(state)  # training mode moved the running statistics
            return float(torch.corrcoef(torch.stack([expected, found]))[0, 1])

    assert agreement() < 0.2
    restore_batch_norm(backbone, model.normalize(photographs(shared, 20, 24)))
    assert agreement() > 0.7


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_network_is_kept(training):
    network = folded(random_network("mobilenet_v2").encoder.backbone).train(training)
    restore_batch_norm(network, torch.randn(2, 3, 33, 33))
    assert network.training is training
