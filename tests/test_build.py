from dataclasses import replace

import pytest
import torch

from atrous.build import create_classifier, create_model
from atrous.cost import parameters
from atrous.errors import AtrousError


@pytest.mark.parametrize(
    ("backbone", "options", "option"),
    [
        ("resnet50", {"num_classes": 0}, "num_classes"),
        ("xception65", {"stem": "plain"}, "stem"),
        ("resnet50", {"stem": "deep"}, "stem"),
        ("resnet50", {"relu_after_depthwise": True}, "relu_after_depthwise"),
        ("resnet50", {"depth_multiplier": 0.5}, "depth_multiplier"),
        ("mobilenet_v2", {"depth_multiplier": 0.0}, "depth_multiplier"),
        ("resnet50", {"multi_grid": (1, 2)}, "multi_grid"),
        ("mobilenet_v2", {"multi_grid": (1, 2, 4)}, "multi_grid"),
        ("resnet50", {"atrous_rates": (0, 6)}, "atrous_rates"),
        ("resnet50", {"refine": ((2, 256),)}, "refine"),
        ("resnet50", {"output_stride": 12}, "output stride"),
    ],
)
def test_impossible_networks_are_refused_with_the_reason(backbone, options, option):
    with pytest.raises(AtrousError, match=r"E-ARCHITECTURE|E-OUTPUT-STRIDE") as caught:
        create_model(backbone, **{"num_classes": 2, **options})
    assert option in caught.value.what


@pytest.mark.parametrize("create", [create_model, create_classifier])
@pytest.mark.parametrize(("name", "nearest"), [("output_strid", "output_stride"), ("os", "")])
def test_unknown_options_are_refused_with_the_nearest(create, name, nearest):
    with pytest.raises(AtrousError, match="E-UNKNOWN-NAME") as caught:
        create("mobilenet_v2", num_classes=2, **{name: 8})
    assert nearest in caught.value.fix


def test_a_classifier_has_the_options_of_a_backbone_alone():
    with pytest.raises(AtrousError, match="E-UNKNOWN-NAME"):
        create_classifier("mobilenet_v2", num_classes=2, separable=False)


def test_lists_are_taken_for_tuples():
    with torch.device("meta"):
        model = create_model("resnet50", num_classes=2, multi_grid=[1, 2, 1], refine=[[3, 8]])
    assert model.architecture.multi_grid == (1, 2, 1)
    assert hash(model.architecture) == hash(replace(model.architecture, refine=((3, 8),)))


@pytest.mark.parametrize(
    ("name", "nearest"), [("xception66", "xception65"), ("mobilenetv2", "mobilenet_v2")]
)
def test_P06_unknown_backbones_get_the_nearest_name(name, nearest):
    with pytest.raises(AtrousError, match="E-UNKNOWN-NAME") as caught:
        create_model(name, num_classes=2)
    assert f"did you mean '{nearest}'" in caught.value.fix


def test_same_seed_gives_the_same_weights():
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(create_model("mobilenet_v2", num_classes=2).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("options", "mean", "std"),
    [
        ({}, [127.5], [127.5]),
        ({"stem": "plain"}, [123.15, 115.90, 103.06], [1.0]),
        ({"stem": "plain", "in_channels": 4}, [123.15, 115.90, 103.06, 0.0], [1.0]),
    ],
)
def test_normalisation_is_the_authors(options, mean, std):
    model = create_model("resnet50", num_classes=2, **options)
    assert model.normalize.mean.flatten().tolist() == pytest.approx(mean)
    assert model.normalize.std.flatten().tolist() == pytest.approx(std)


def test_pictures_may_have_other_channels():
    model = create_model("mobilenet_v2", num_classes=2, in_channels=5).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 5, 17, 17)).shape == (1, 2, 17, 17)


def test_defaults_are_the_papers():
    with torch.device("meta"):
        model = create_model("xception65", num_classes=21)
    assert model.output_stride == 16
    assert model.encoder.aspp.atrous_rates == (6, 12, 18)
    assert model.encoder.backbone.multi_grid == (1, 1, 1)
    assert parameters(model) == 41_055_413  # separable ASPP and decoder; 41.055 M
    with torch.device("meta"):
        assert create_model("resnet101", num_classes=21).encoder.backbone.multi_grid == (1, 2, 4)


def test_the_names_of_backbones_are_those_of_the_families():
    from atrous.architecture import BACKBONES
    from atrous.encoder import mobilenet_v3, resnet, xception

    families = (*xception.VARIANTS, *resnet.UNITS, "mobilenet_v2", *mobilenet_v3.VARIANTS)
    assert set(BACKBONES) == set(families)
