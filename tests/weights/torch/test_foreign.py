import re

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from atrous.errors import AtrousError
from atrous.loading import convert, load
from atrous.weights.torch.foreign import PROJECTS, recognise, refusal
from tests.networks import random_network


def smp_model(name, encoder):
    package = pytest.importorskip("segmentation_models_pytorch")
    return getattr(package, name)(encoder, encoder_weights=None, classes=3)


def shapes(network, prefix=""):
    return {prefix + name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def torchvision_deeplab(name):
    build = getattr(torchvision.models.segmentation, name)
    return build(weights=None, weights_backbone=None, num_classes=3)


# Names and shapes as their code makes them; their packages are not on the index.
VAINF = dict.fromkeys(
    (
        "backbone.conv1.weight", "classifier.project.0.weight",
        "classifier.aspp.convs.0.0.weight", "classifier.aspp.convs.4.1.weight",
        "classifier.classifier.0.weight", "classifier.classifier.3.weight",
    ), (1,),
)  # fmt: skip
VAINF_V3 = dict.fromkeys(
    (
        "backbone.conv1.weight", "classifier.classifier.0.convs.0.0.weight",
        "classifier.classifier.1.weight", "classifier.classifier.4.weight",
    ), (1,),
)  # fmt: skip
JFZHANG95 = dict.fromkeys(
    (
        "backbone.layer1.0.conv1.weight", "aspp.aspp1.atrous_conv.weight",
        "aspp.global_avg_pool.1.weight", "aspp.conv1.weight", "decoder.conv1.weight",
        "decoder.last_conv.0.weight", "decoder.last_conv.8.weight",
    ), (1,),
)  # fmt: skip


PLUS = "segmentation_models.pytorch DeepLabV3Plus"
FOREIGN = [
    ("torchvision deeplabv3", lambda: shapes(torchvision_deeplab("deeplabv3_resnet50"))),
    ("torchvision deeplabv3", lambda: shapes(torchvision_deeplab("deeplabv3_mobilenet_v3_large"))),
    (PLUS, lambda: shapes(smp_model("DeepLabV3Plus", "resnet18"))),
    (PLUS, lambda: shapes(smp_model("DeepLabV3Plus", "mobilenet_v2"))),
    (PLUS, lambda: shapes(smp_model("DeepLabV3Plus", "efficientnet-b0"))),
    (PLUS.removesuffix("Plus"), lambda: shapes(smp_model("DeepLabV3", "resnet18"))),
    ("VainF/DeepLabV3Plus-Pytorch", lambda: VAINF),
    ("VainF/DeepLabV3Plus-Pytorch (DeepLabv3)", lambda: VAINF_V3),
    ("jfzhang95/pytorch-deeplab-xception", lambda: JFZHANG95),
    ("torchvision ResNet", lambda: shapes(torchvision.models.resnet50())),
]


@pytest.mark.parametrize(("name", "tensors"), FOREIGN)
def test_checkpoints_of_others_are_recognised(name, tensors):
    found = recognise(tensors())
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "network",
    [lambda: random_network("mobilenet_v2"), lambda: timm.create_model("mobilenetv2_100")],
)
def test_our_own_and_unknown_networks_are_not_taken_for_others(network):
    assert recognise(shapes(network())) is None


@pytest.fixture
def smp():
    return smp_model("DeepLabV3Plus", "mobilenet_v2")


@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".safetensors"])
def test_a_recognised_checkpoint_is_refused_with_the_list_of_differences(tmp_path, smp, suffix):
    path = tmp_path / f"smp{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(smp.state_dict(), path)
    with pytest.raises(AtrousError) as caught:
        convert(path)
    project = next(p for p in PROJECTS if p.name.endswith("DeepLabV3Plus"))
    assert caught.value.code == "E-WEIGHTS-FOREIGN"
    listed = re.findall(r"^  - (.+)$", caught.value.what, re.M)
    assert listed == list(project.differences)
    assert "timm/<name>" in caught.value.fix


def test_the_differences_named_are_there(smp):
    """The claims about segmentation_models.pytorch, against its own modules."""
    assert isinstance(smp.decoder.aspp[1], torch.nn.Sequential)  # the extra separable convolution
    assert smp.decoder.aspp[0].project[0].in_channels == 5 * 256
    pooling = smp.decoder.aspp[0].convs[-1]
    assert "Pooling" in type(pooling).__name__  # last in the concatenation
    refine = [m for m in smp.decoder.block2.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(refine) == 2  # one depthwise, one pointwise
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in smp.decoder.block2[0].modules())
    rates = {m.dilation for m in smp.decoder.aspp[0].modules() if isinstance(m, torch.nn.Conv2d)}
    assert {(12, 12), (24, 24), (36, 36)} <= rates  # at output stride 16


def test_torchvisions_extra_convolution_is_there():
    head = torchvision_deeplab("deeplabv3_mobilenet_v3_large").classifier
    assert head[1].kernel_size == (3, 3)
    assert [conv[0].dilation for conv in head[0].convs[1:4]] == [(12, 12), (24, 24), (36, 36)]


@pytest.mark.parametrize(
    ("name", "advised"),
    [
        ("resnet18", "timm/resnet18"),
        ("resnet34", "timm/resnet34"),
        ("resnet101", "timm/resnet101"),
        ("wide_resnet50_2", "timm/wide_resnet50_2"),
    ],
)
def test_a_torchvision_resnet_is_pointed_to_its_name_in_timm(name, advised):
    with torch.device("meta"):
        network = getattr(torchvision.models, name)()
    error = refusal(shapes(network), "resnet.pth")
    assert "strides in the first unit of a stage" in error.what
    assert advised in error.fix


def test_a_pickle_is_not_loaded_but_converted(tmp_path, smp):
    torch.save(smp.state_dict(), tmp_path / "smp.pth")
    with pytest.raises(AtrousError, match="can run code") as caught:
        load(tmp_path / "smp.pth")
    assert "atrous convert smp.pth" in caught.value.fix


def test_an_unknown_checkpoint_shows_some_of_its_names(tmp_path):
    torch.save({"stages.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(AtrousError, match=r"no known network: stages\.0\.weight") as caught:
        convert(tmp_path / "other.pth")
    assert caught.value.code == "E-WEIGHTS-UNKNOWN"
