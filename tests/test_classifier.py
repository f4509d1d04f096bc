import pytest
import torch
from torch import nn

from atrous.build import build, create_classifier
from atrous.cost import parameters
from atrous.errors import AtrousError
from atrous.layers import Normalize


@pytest.mark.parametrize(
    ("backbone", "millions"), [("xception41", 26.97), ("xception65", 39.92), ("xception71", 42.34)]
)
def test_parameters_are_those_of_the_authors_imagenet_networks(
    backbone: str, millions: float
) -> None:
    """timm's table of their ported weights, with 1000 classes."""
    with torch.device("meta"):
        model = create_classifier(backbone, num_classes=1000)
    assert round(parameters(model) / 1e6, 2) == millions


def test_logits_are_those_of_the_mean_feature() -> None:
    model = create_classifier("mobilenet_v2", num_classes=3, depth_multiplier=0.25).eval()
    nn.init.normal_(model.classifier.bias)  # type: ignore[arg-type]
    images = torch.randint(0, 256, (2, 3, 65, 97), dtype=torch.uint8)
    features, _ = model.encoder.backbone(model.normalize(images))
    assert features.shape[-2:] == (3, 4)  # stride 32
    expected = features.mean((2, 3)) @ model.classifier.weight.flatten(1).T + model.classifier.bias
    logits = model(images)
    assert logits.shape == (2, 3, 1, 1)
    torch.testing.assert_close(logits.flatten(1), expected)


def test_half_of_the_features_are_dropped_in_training() -> None:
    model = create_classifier("mobilenet_v2", num_classes=3, depth_multiplier=0.25)
    kept = model.train().dropout(torch.ones(100_000))
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert kept.mean().item() == pytest.approx(1, abs=0.02)
    assert model.eval().dropout(torch.ones(9)).eq(1).all()


def test_normalisation_lives_inside() -> None:
    model = create_classifier("mobilenet_v2", num_classes=2, depth_multiplier=0.25).eval()
    assert isinstance(model.normalize, Normalize)
    images = torch.randint(0, 256, (1, 3, 33, 33), dtype=torch.uint8)
    torch.testing.assert_close(model(images), model(images.float()))
    with pytest.raises(AtrousError, match="E-IMAGES-SHAPE"):
        model(images[:, :2])


def test_a_classifiers_architecture_is_none_of_a_network_for_segmentation() -> None:
    model = create_classifier("mobilenet_v2", num_classes=2, depth_multiplier=0.25)
    with pytest.raises(AtrousError, match="E-UNKNOWN-NAME"):
        build(model.architecture)
