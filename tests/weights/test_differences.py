"""What is said of checkpoints that are not a model of this package."""

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from atrous.build import create_model
from atrous.errors import AtrousError
from atrous.loading import convert, load, load_weights
from tests.networks import random_network

SMALL = {"depth_multiplier": 0.1, "atrous_rates": (), "decoder": False}


def smp_model(name):
    package = pytest.importorskip("segmentation_models_pytorch")
    return getattr(package, name)("resnet18", encoder_weights=None, classes=3)


OTHERS = {
    "torchvision deeplab": lambda: torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    ),
    "torchvision resnet": torchvision.models.resnet18,
    "smp plus": lambda: smp_model("DeepLabV3Plus"),
    "smp": lambda: smp_model("DeepLabV3"),
    "timm": lambda: timm.create_model("resnet10t"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".safetensors"])
def test_W11_checkpoints_of_others_are_refused_with_their_names_and_what_to_do(
    tmp_path, name, suffix
):
    state = OTHERS[name]().state_dict()
    path = tmp_path / f"theirs{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    with pytest.raises(AtrousError) as caught:
        convert(path)
    assert caught.value.code == "E-WEIGHTS-UNKNOWN"
    assert any(f" {tensor}," in caught.value.what for tensor in state)
    assert f"{len(state)} in all" in caught.value.what
    assert "timm/<name>" in caught.value.fix


def test_a_pickle_is_not_loaded_but_converted(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(AtrousError) as caught:
        load(tmp_path / "a.pth")
    assert caught.value.code == "E-WEIGHTS-PICKLE"
    assert "atrous convert a.pth" in caught.value.fix


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_our_own_state_dict_is_named_and_fills_a_network(tmp_path, wrapped, suffix):
    model = random_network("mobilenet_v2", num_classes=5, **SMALL)
    state = model.state_dict()
    path = tmp_path / f"mine{suffix}"
    if suffix == ".safetensors":
        save_file({f"module.{n}": t for n, t in state.items()} if wrapped else state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if wrapped else state, path)
    with pytest.raises(AtrousError) as caught:
        convert(path)
    assert caught.value.code == "E-WEIGHTS-STATE-DICT"
    assert "load_weights" in caught.value.fix
    other = random_network("mobilenet_v2", num_classes=5, seed=1, **SMALL)
    load_weights(other, path)
    assert all(torch.equal(other.state_dict()[n], t) for n, t in state.items())
    new = create_model("mobilenet_v2", num_classes=2, depth_multiplier=0.1, pretrained=path)
    found = new.encoder.backbone.state_dict()
    assert all(torch.equal(found[n], t) for n, t in model.encoder.backbone.state_dict().items())
