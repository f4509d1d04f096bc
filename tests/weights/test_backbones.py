import numpy as np
import pytest
import timm
import torch
import torchvision
from ai_edge_litert.interpreter import Interpreter
from safetensors.torch import save_file

from atrous.build import create_model
from atrous.encoder.mobilenet_v2 import MobileNetV2
from atrous.errors import AtrousError
from atrous.images.decode import read_image
from atrous.training.batch_norm import restore_folded, statistics_untouched
from atrous.weights import backbones
from atrous.weights.tensorflow import names as tf_names
from atrous.weights.tensorflow import tflite
from tests.networks import random_network
from tests.weights.efficientnet_lite import EfficientNetLite0
from tests.weights.tensorflow.tensorflow_files import write_checkpoint
from tests.weights.tensorflow.test_infer import variables_of

PTQ = "weights/tf2_mobilenet_v2_1.0_224_ptq.tflite"
QUANT = "weights/mobilenet_v2_1.0_224_quant.tflite"
IMAGENET_MEAN = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1)
IMAGENET_STD = torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1)


def randomised(network):
    """Batch norms that do something, as if trained."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.6, 1.2, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.8, 1.6, generator=generator)
    return network.eval()


def our_features(model, images):
    model.set_output_stride(32)
    with torch.inference_mode():
        return model.eval().encoder.backbone(model.normalize(images))[0]


def assert_close(found, expected, tolerance=1e-5):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < tolerance * expected.std()


@pytest.mark.parametrize(
    "name",
    [
        "xception41",
        pytest.param("xception65", marks=pytest.mark.slow),
        pytest.param("xception71", marks=pytest.mark.slow),
    ],
)
def test_weights_of_timms_xception_give_timms_features(tmp_path, name):
    theirs = randomised(timm.create_model(name))
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    ours = create_model(name, num_classes=2, pretrained=tmp_path / "theirs.safetensors")
    images = torch.randint(0, 256, (1, 3, 97, 130), dtype=torch.uint8)
    with torch.inference_mode():
        expected = theirs.forward_features(images / 127.5 - 1)
    assert_close(our_features(ours, images), expected)
    assert ours.provenance.notes[-1] == "left out: head.fc.bias, head.fc.weight"


def test_weights_of_timms_mobilenet_bring_their_normalisation_and_epsilon(tmp_path):
    theirs = randomised(timm.create_model("mobilenetv2_100"))
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    ours = create_model("mobilenet_v2", num_classes=2, pretrained=tmp_path / "theirs.safetensors")
    images = torch.randint(0, 256, (1, 3, 97, 130), dtype=torch.uint8)
    with torch.inference_mode():
        stem = theirs.bn1(theirs.conv_stem((images - IMAGENET_MEAN) / IMAGENET_STD))
        expected = theirs.blocks(stem)
    assert_close(our_features(ours, images), expected)
    assert ours.encoder.backbone.conv.bn.eps == 1e-5
    assert ours.encoder.aspp.project.bn.eps == 1e-5
    assert create_model("mobilenet_v2", num_classes=2).encoder.backbone.conv.bn.eps == 1e-3


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_of_torchvisions_mobilenet_give_its_features(tmp_path, prefix):
    theirs = randomised(torchvision.models.mobilenet_v2())
    state = {prefix + name: tensor for name, tensor in theirs.state_dict().items()}
    torch.save(state, tmp_path / "theirs.pth")
    ours = create_model("mobilenet_v2", num_classes=2, pretrained=tmp_path / "theirs.pth")
    images = torch.randint(0, 256, (1, 3, 97, 130), dtype=torch.uint8)
    with torch.inference_mode():
        expected = theirs.features[:18]((images - IMAGENET_MEAN) / IMAGENET_STD)
    assert_close(our_features(ours, images), expected)


def test_weights_of_efficientnet_lite_give_the_originals_features(tmp_path):
    theirs = randomised(EfficientNetLite0())
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = create_model(
        "timm/efficientnet_lite0", num_classes=2, pretrained=tmp_path / "theirs.pth"
    )
    images = torch.randint(0, 256, (1, 3, 97, 129), dtype=torch.uint8)  # 32k + 1
    with torch.inference_mode():
        expected, expected_low = theirs.features((images - 127.0) / 128)
        features = our_features(ours, images)
        low = ours.encoder.backbone(ours.normalize(images))[1][4]
    assert_close(features, expected)
    assert_close(low, expected_low)
    assert ours.provenance.notes[-1].startswith("left out: _conv_head.weight")


def test_epsilon_of_efficientnet_lite_survives_another_output_stride(tmp_path):
    torch.save(EfficientNetLite0().state_dict(), tmp_path / "theirs.pth")
    model = create_model(
        "timm/efficientnet_lite0", num_classes=2, pretrained=tmp_path / "theirs.pth"
    )
    model.set_output_stride(8)
    norms = [m for m in model.encoder.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {m.eps for m in norms} == {1e-3}


@pytest.mark.parametrize(
    ("backbone", "options"),
    [("mobilenet_v2", {}), pytest.param("resnet50", {}, marks=pytest.mark.slow)],
)
def test_a_checkpoint_of_the_authors_fills_the_backbone_alone(tmp_path, backbone, options):
    trained = random_network(backbone, num_classes=5, **options)
    variables = {name: np.ascontiguousarray(v) for name, v in variables_of(trained).items()}
    write_checkpoint(tmp_path / "model.ckpt", variables)
    model = create_model(backbone, num_classes=2, pretrained=tmp_path / "model.ckpt")
    expected = trained.encoder.backbone.state_dict()
    found = model.encoder.backbone.state_dict()
    assert all(torch.equal(found[n], t) for n, t in expected.items() if "num_batches" not in n)
    assert "logits/semantic/weights" in model.provenance.notes[-1]


def test_W11_a_file_that_lacks_a_tensor_is_refused(tmp_path):
    state = timm.create_model("mobilenetv2_100").state_dict()
    del state["blocks.3.2.bn2.bias"]
    save_file(state, tmp_path / "theirs.safetensors")
    with pytest.raises(AtrousError) as caught:
        create_model("mobilenet_v2", num_classes=2, pretrained=tmp_path / "theirs.safetensors")
    assert caught.value.code == "E-WEIGHTS-MISMATCH"
    assert "units.8.depthwise.bn.bias" in str(caught.value)


def test_W11_weights_of_another_width_are_refused(tmp_path):
    state = timm.create_model("mobilenetv2_140").state_dict()
    save_file(state, tmp_path / "theirs.safetensors")
    with pytest.raises(AtrousError) as caught:
        create_model("mobilenet_v2", num_classes=2, pretrained=tmp_path / "theirs.safetensors")
    assert caught.value.code == "E-WEIGHTS-MISMATCH"
    assert "255 misshapen" in caught.value.what


@pytest.mark.slow
def test_W11_weights_of_another_depth_are_refused(tmp_path):
    save_file(timm.create_model("xception41").state_dict(), tmp_path / "theirs.safetensors")
    with pytest.raises(AtrousError, match="E-WEIGHTS-MISMATCH") as caught:
        create_model("xception65", num_classes=2, pretrained=tmp_path / "theirs.safetensors")
    assert caught.value.code == "E-WEIGHTS-MISMATCH"


def test_a_torchvision_resnet_is_refused_with_a_pointer_to_timm(tmp_path):
    torch.save(torchvision.models.resnet50().state_dict(), tmp_path / "resnet50.pth")
    with pytest.raises(AtrousError) as caught:
        create_model("resnet50", num_classes=2, stem="plain", pretrained=tmp_path / "resnet50.pth")
    assert caught.value.code == "E-WEIGHTS-UNKNOWN"
    assert "timm/<name>" in caught.value.fix


def test_resnets_without_published_weights_point_to_timm_and_the_zoo():
    with pytest.raises(AtrousError, match="E-PRETRAINED") as caught:
        create_model("resnet101", num_classes=2, pretrained="imagenet")
    assert "timm/resnet101" in caught.value.fix
    assert "resnet101_imagenet" in caught.value.fix


def timm_file(tmp_path, name, **options):
    network = randomised(timm.create_model(name, **options))
    save_file(network.state_dict(), tmp_path / "timm.safetensors")
    return network, tmp_path / "timm.safetensors"


@pytest.mark.parametrize("name", ["imagnet", "mobilenetv2_imagenet_quantt"])
def test_P06_misspelt_weights_get_the_nearest(name):
    with pytest.raises(AtrousError, match="E-UNKNOWN-NAME") as caught:
        create_model("mobilenet_v2", num_classes=3, pretrained=name)
    assert "did you mean" in caught.value.fix


def test_timm_backbones_take_a_file_of_timms_weights(tmp_path):
    theirs, file = timm_file(tmp_path, "resnet18")
    ours = create_model("timm/resnet18", num_classes=2, pretrained=file)
    images = torch.randint(0, 256, (1, 3, 97, 130), dtype=torch.uint8)
    with torch.inference_mode():
        expected = theirs.forward_features((images - IMAGENET_MEAN) / IMAGENET_STD)
    assert_close(our_features(ours, images), expected)
    assert len(ours.provenance.sha256) == 64


def test_timm_backbones_refuse_files_that_do_not_fill_them(tmp_path):
    _, file = timm_file(tmp_path, "resnet10t")
    with pytest.raises(AtrousError) as caught:
        create_model("timm/resnet18", num_classes=2, pretrained=file)
    assert caught.value.code == "E-WEIGHTS-MISMATCH"


def test_W08_timm_never_opens_a_pickle_itself(tmp_path, monkeypatch):
    class Malicious:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'executed')!r}, 'w')",)

    torch.save({"conv1.weight": Malicious()}, tmp_path / "evil.pth")
    with pytest.raises(AtrousError, match="E-WEIGHTS-PICKLE"):
        create_model("timm/resnet18", num_classes=2, pretrained=tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()
    theirs, _ = timm_file(tmp_path, "resnet18")
    torch.save(theirs.state_dict(), tmp_path / "good.pth")
    monkeypatch.setattr("timm.models._builder.load_state_dict", None)
    ours = create_model("timm/resnet18", num_classes=2, pretrained=tmp_path / "good.pth")
    assert torch.equal(ours.encoder.backbone.network.conv1.weight, theirs.conv1.weight)


def test_imagenet_means_the_hub_file_with_the_authors_weights(monkeypatch):
    asked = []

    def download(source):
        asked.append(source)
        raise AtrousError("E-HUB-FAILED", "asked")

    monkeypatch.setattr(backbones.hub, "download", download)
    for backbone in ("xception41", "xception65", "xception71", "timm/resnet50"):
        with pytest.raises(AtrousError, match="E-HUB-FAILED"):
            backbones.find("imagenet", backbone)
    assert asked[:3] == [f"hf:timm/xception{depth}.tf_in1k" for depth in (41, 65, 71)]
    assert asked[3].startswith("hf:timm/resnet50.")


def test_imagenet_means_the_pinned_file_for_mobilenet(shared, monkeypatch):
    monkeypatch.setattr(backbones.zoo, "download", lambda name: shared / PTQ)
    model = create_model("mobilenet_v2", num_classes=2, pretrained="imagenet")
    assert model.provenance.source == "mobilenetv2_imagenet_ptq"
    assert model.architecture.mean == (127.0,)


def picture(shared, size=224):
    return np.array(read_image(shared / "photos/cat_720p.jpg").resize((size, size)))


@pytest.mark.filterwarnings("ignore:Warning. Enabling `experimental_preserve_all_tensors`")
@pytest.mark.parametrize(("file", "correlation"), [(QUANT, 0.98), (PTQ, 0.99)])
def test_features_of_a_quantised_classifier_are_litertes(shared, file, correlation):
    graph = tflite.read(shared / file)
    model = random_network("mobilenet_v2", output_stride=32)
    model.encoder.backbone = MobileNetV2(output_stride=32, one_sided_padding=32).eval()
    variables = {n: v for n, v in graph.variables.items() if backbones._is_backbone(n)}
    tf_names.assign(model, variables, part="encoder.backbone")
    litert = Interpreter(str(shared / file), num_threads=1, experimental_preserve_all_tensors=True)
    litert.allocate_tensors()
    litert.set_tensor(litert.get_input_details()[0]["index"], picture(shared)[None])
    litert.invoke()
    detail = next(d for d in litert.get_tensor_details() if list(d["shape"]) == [1, 7, 7, 320])
    scale, zero = detail["quantization"]
    expected = (litert.get_tensor(detail["index"]).astype(np.float32) - zero) * scale
    images = torch.from_numpy(picture(shared)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        found, _ = model.encoder.backbone((images - graph.mean) / graph.std)
    found = found.permute(0, 2, 3, 1).numpy()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > correlation


def test_symmetric_padding_gives_the_features_of_one_sided_padding_a_little_earlier():
    centred = random_network("mobilenet_v2").encoder.backbone
    one_sided = MobileNetV2(one_sided_padding=32).eval()
    one_sided.load_state_dict(centred.state_dict())
    images = torch.randn(1, 3, 224, 224)
    shifted = torch.nn.functional.pad(images, (7, 0, 7, 0))  # 1 + 2 + 4 pixels at stride 8
    with torch.inference_mode():
        expected = one_sided(shifted)[1][8]
        found = centred(images)[1][8]
    inside = (..., slice(13, 15), slice(13, 15))  # away from the borders, padded otherwise
    assert found[inside].std() > 0
    assert (found[inside] - expected[inside]).abs().max() < 1e-4 * found.std()


def photographs(shared, start, count):
    paths = sorted((shared / "data/voc2012/JPEGImages").glob("*.jpg"))[start::40][:count]
    arrays = [np.array(read_image(path).resize((160, 160))) for path in paths]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def test_photographs_bring_training_mode_close_to_evaluation_mode(shared):
    model = create_model("mobilenet_v2", num_classes=2, pretrained=shared / PTQ)
    images = model.normalize(photographs(shared, 0, 12))

    def agreement():
        backbone = model.encoder.backbone
        with torch.inference_mode(), statistics_untouched(model):
            expected = backbone.eval()(images)[0].flatten()
            found = backbone.train()(images)[0].flatten()
            return float(torch.corrcoef(torch.stack([expected, found]))[0, 1])

    assert agreement() < 0.2
    assert "restore_folded" in " ".join(model.provenance.notes)
    restore_folded(model, [photographs(shared, 20, 24)])
    assert agreement() > 0.7
