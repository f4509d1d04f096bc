from pathlib import Path

import numpy as np
import pytest
import torch

import atrous
from atrous.architecture import Architecture
from atrous.data.dataset import Sample
from atrous.errors import AtrousError
from atrous.training.inputs import balanced
from atrous.training.setup import create_network
from tests.networks import random_network
from tests.tiny import tiny, tiny_data
from tests.weights.tensorflow.tensorflow_files import write_checkpoint
from tests.weights.tensorflow.test_infer import variables_of


class Quarters:
    """One picture: three quarters of class 0, a quarter of class 1, none of class 2."""

    classes = ("often", "seldom", "never")

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        target = np.zeros((4, 5), np.uint8)
        target[:, 3] = 1
        target[:, 4] = 255
        return Sample(np.zeros((4, 5, 3), np.uint8), target)


@pytest.mark.parametrize("power", [0.33, 0.5, 1.0])
def test_class_weights_are_a_power_of_the_classes_shares(power: float) -> None:
    config = balanced(tiny(class_balance=power), Quarters())  # type: ignore[arg-type]
    often, seldom, never = config.class_weights
    assert seldom / often == pytest.approx(3**power, rel=1e-3)
    assert 0.75 * often + 0.25 * seldom == pytest.approx(1, abs=1e-3)  # a pixel's mean weight
    assert never == 1


def test_weights_are_counted_only_if_asked_for_and_not_given() -> None:
    data, _ = tiny_data()
    assert balanced(tiny(), data) == tiny()
    given = tiny(class_balance=0.5, class_weights=(1.0,) * len(data.classes))
    assert balanced(given, data) == given
    with pytest.raises(AtrousError) as caught:
        tiny(class_balance=2.0)
    assert caught.value.code == "E-CONFIG"
    assert "class_balance" in caught.value.what


def test_the_network_is_the_one_the_config_describes() -> None:
    changes = {"image_pooling": False, "decoder_strides": (8, 4), "reduced_channels": 16}
    config = tiny(**changes, refine=((3, 32), (1, 32)))
    model = create_network(config, tiny_data()[0])
    described = {name: getattr(model.architecture, name) for name in changes}
    assert described == changes
    assert model.architecture.refine == ((3, 32), (1, 32))
    assert model.encoder.aspp.image_pooling is None
    with pytest.raises(AtrousError) as caught:
        create_network(tiny(relu_after_depthwise=True), tiny_data()[0])
    assert caught.value.code == "E-ARCHITECTURE"
    assert "relu_after_depthwise" in caught.value.what


def test_a_config_builds_the_papers_network_unless_told_otherwise() -> None:
    model = create_network(tiny(depth_multiplier=1.0), tiny_data()[0])
    assert model.architecture == Architecture("mobilenet_v2", len(model.classes))


def test_a_classifier_of_tensorflow_gives_its_backbone(tmp_path: Path) -> None:
    trained = random_network(
        "mobilenet_v2", num_classes=3, depth_multiplier=0.1, atrous_rates=(), decoder=False
    )
    backbone = {
        name: np.ascontiguousarray(array)
        for name, array in variables_of(trained).items()
        if name.startswith("MobilenetV2/")
    }
    path = write_checkpoint(tmp_path / "imagenet.ckpt", backbone)
    model = create_network(tiny(weights=str(path)), tiny_data()[0])
    theirs = trained.encoder.backbone.state_dict()
    assert all(torch.equal(t, theirs[n]) for n, t in model.encoder.backbone.state_dict().items())


@pytest.mark.parametrize("name", ["tf2_mobilenet_v2_1.0_224_ptq", "mobilenet_v2_1.0_224_quant"])
def test_a_published_classifier_gives_its_backbone(shared: Path, name: str) -> None:
    weights = str(shared / "weights" / f"{name}.tflite")
    model = create_network(tiny(weights=weights, depth_multiplier=1.0), tiny_data()[0])
    plain = atrous.create_model("mobilenet_v2", num_classes=2, pretrained=weights)
    theirs = plain.encoder.backbone.state_dict()
    assert all(torch.equal(t, theirs[n]) for n, t in model.encoder.backbone.state_dict().items())
