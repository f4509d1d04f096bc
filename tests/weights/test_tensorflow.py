import json
import sys

import numpy as np
import pytest
import torch

from atrous.build import create_model, from_tensorflow
from atrous.errors import AtrousError
from atrous.layers import ConvBN
from atrous.weights.tensorflow import _BACKBONES, scope_of
from tests.networks import random_network

CASES = ["mobilenet_v2_os16", "resnet_v1_101_beta_os16_decoder4", "xception_65_os16_decoder4"]


@pytest.mark.parametrize("name", CASES)
def test_outputs_of_the_authors_code_are_reproduced(shared, name):
    folder = shared / "tf_reference"
    sys.path.insert(0, str(folder))
    try:
        from values import value
    finally:
        sys.path.remove(str(folder))
    case = json.loads((folder / f"{name}.json").read_text())
    reference = np.load(folder / f"{name}.npz")
    settings = {k: case["case"].get(k) for k in ("output_stride", "atrous_rates", "multi_grid")}
    model = from_tensorflow({n: value(n, s) for n, s in case["variables"].items()}, **settings)
    images = torch.from_numpy(reference["image"]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        coarse = model.coarse_logits(images).permute(0, 2, 3, 1).numpy()
        logits = model(images).permute(0, 2, 3, 1).numpy()
    deviation = reference["logits"].std((1, 2)).mean()
    assert np.abs(coarse - reference["logits"]).max() < 1e-3 * deviation
    top_two = np.sort(logits, axis=3)[..., -2:]
    decided = top_two[..., 1] - top_two[..., 0] > 1e-3 * deviation
    assert decided.mean() > 0.99
    assert (logits.argmax(3) == reference["labels"])[decided].all()


def variables_of(model):
    """Writes a model as the authors' variables: the inverse of loading."""
    architecture = model.architecture
    root = next(scope for scope, name in _BACKBONES.items() if name == architecture.backbone)
    stem = "conv1_" if architecture.stem == "beta" else "conv"
    variables = {}
    for path, module in model.named_modules():
        if not isinstance(module, ConvBN):
            continue
        scope = scope_of(path, root=root, stem=stem)
        kernel = module.conv.weight.detach().numpy()  # (out, in / groups, kh, kw)
        if module.conv.groups > 1:
            variables[f"{scope}/depthwise_weights"] = kernel.transpose(2, 3, 0, 1)
        else:
            variables[f"{scope}/weights"] = kernel.transpose(2, 3, 1, 0)
        variables |= {
            f"{scope}/BatchNorm/gamma": module.bn.weight.detach().numpy(),
            f"{scope}/BatchNorm/beta": module.bn.bias.detach().numpy(),
            f"{scope}/BatchNorm/moving_mean": module.bn.running_mean.numpy(),
            f"{scope}/BatchNorm/moving_variance": module.bn.running_var.numpy(),
        }
    classifier = model.decoder.classifier
    variables["logits/semantic/weights"] = classifier.weight.detach().numpy().transpose(2, 3, 1, 0)
    variables["logits/semantic/biases"] = classifier.bias.detach().numpy()
    return variables


FAMILIES = [
    ("xception41", {"separable": False, "image_pooling": False}),
    ("xception71", {"decoder_strides": (8, 4), "refine": ((3, 128),)}),
    ("resnet50", {"stem": "plain", "separable": False, "decoder_strides": (8, 4)}),
    ("resnet50", {"decoder": False, "decoder_separable": None, "in_channels": 4}),
    ("mobilenet_v2", {"depth_multiplier": 0.5, "atrous_rates": (), "reduced_channels": 32}),
    ("mobilenet_v2", {"decoder_separable": False, "refine": ((3, 64), (3, 32), (3, 16))}),
    ("mobilenet_v2", {"separable": False, "decoder_separable": True}),
]


@pytest.mark.parametrize(("backbone", "options"), FAMILIES)
def test_what_a_network_is_shows_in_its_variables(backbone, options):
    original = random_network(backbone, num_classes=5, **options)
    loaded = from_tensorflow(variables_of(original), multi_grid=original.architecture.multi_grid)
    expected = original.state_dict()
    found = loaded.state_dict()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        if "num_batches" not in name:
            assert torch.equal(found[name], tensor), name
    assert loaded.normalize.mean.shape[1] in (1, original.architecture.in_channels)


# Names as the authors' checkpoints have them, written down independently of our table.
NAMES = [
    ("xception65", "xception_65/entry_flow/conv1_1/weights", [3, 3, 3, 32]),
    (
        "xception65",
        "xception_65/entry_flow/block2/unit_1/xception_module/separable_conv2_pointwise/weights",
        [1, 1, 256, 256],
    ),
    (
        "xception65",
        "xception_65/middle_flow/block1/unit_16/xception_module/separable_conv3_depthwise/"
        "depthwise_weights",
        [3, 3, 728, 1],
    ),
    (
        "xception65",
        "xception_65/exit_flow/block1/unit_1/xception_module/shortcut/BatchNorm/moving_variance",
        [1024],
    ),
    ("xception65", "aspp3_depthwise/depthwise_weights", [3, 3, 2048, 1]),
    ("xception65", "decoder/decoder_conv1_pointwise/BatchNorm/gamma", [256]),
    ("resnet101", "resnet_v1_101/conv1_3/weights", [3, 3, 64, 128]),
    ("resnet101", "resnet_v1_101/block3/unit_23/bottleneck_v1/conv2/weights", [3, 3, 256, 256]),
    ("resnet101", "resnet_v1_101/block4/unit_1/bottleneck_v1/shortcut/weights", [1, 1, 1024, 2048]),
    ("mobilenet_v2", "MobilenetV2/expanded_conv/project/weights", [1, 1, 32, 16]),
    (
        "mobilenet_v2",
        "MobilenetV2/expanded_conv_16/depthwise/depthwise_weights",
        [3, 3, 960, 1],
    ),
    ("mobilenet_v2", "concat_projection/weights", [1, 1, 1280, 256]),
]


@pytest.mark.parametrize(("backbone", "name", "shape"), NAMES)
def test_names_and_layouts_are_the_authors(backbone, name, shape):
    variables = variables_of(random_network(backbone))
    assert list(variables[name].shape) == shape


@pytest.fixture(scope="module")
def mobilenet():
    return variables_of(random_network("mobilenet_v2", num_classes=21))


def test_optimizer_slots_and_counters_are_left_out_and_named(mobilenet):
    extra = {
        "global_step": np.int64(7),
        "concat_projection/weights/Momentum": mobilenet["concat_projection/weights"],
        "MobilenetV2/Logits/Conv2d_1c_1x1/biases": np.zeros(1001),
    }
    model = from_tensorflow({**mobilenet, **extra})
    assert sorted(model.provenance.notes) == sorted(f"left out: {name}" for name in extra)


def test_strange_variables_are_reported_never_dropped_silently(mobilenet, caplog):
    model = from_tensorflow({**mobilenet, "my_head/weights": np.zeros(3)})
    assert "my_head/weights" in caplog.text
    assert "unknown, left out: my_head/weights" in model.provenance.notes


def test_a_left_over_variable_of_the_network_means_another_network(mobilenet):
    with pytest.raises(AtrousError, match="left over MobilenetV2/expanded_conv_3/squeeze/weights"):
        from_tensorflow({**mobilenet, "MobilenetV2/expanded_conv_3/squeeze/weights": np.zeros(3)})


def test_missing_and_misshapen_variables_are_listed(mobilenet):
    broken = dict(mobilenet)
    del broken["aspp0/BatchNorm/gamma"]
    broken["concat_projection/BatchNorm/beta"] = np.zeros(3, np.float32)
    with pytest.raises(AtrousError) as caught:
        from_tensorflow(broken)
    assert "missing aspp0/BatchNorm/gamma" in caught.value.what
    assert "shape of concat_projection/BatchNorm/beta: (3,), expected (256,)" in caught.value.what


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_W13_variables_that_are_not_finite_are_refused(mobilenet, value):
    broken = {**mobilenet, "logits/semantic/biases": np.full(21, value)}
    with pytest.raises(AtrousError, match="NaN or infinity") as caught:
        from_tensorflow(broken)
    assert caught.value.where == "logits/semantic/biases"


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({}, "found none"),
        ({"inception/conv/weights": np.zeros(1)}, "found none among the scopes inception"),
        ({"xception_65/entry_flow/conv1_1/weights": np.zeros((3, 3, 3, 32))}, "without a segment"),
    ],
)
def test_variables_of_other_networks_are_refused(variables, problem):
    with pytest.raises(AtrousError, match=problem):
        from_tensorflow(variables)


def test_rates_must_be_as_many_as_the_branches(mobilenet):
    with pytest.raises(AtrousError, match="3 atrous branches, atrous_rates has 2"):
        from_tensorflow(mobilenet, atrous_rates=(6, 12))


def test_imported_networks_have_the_authors_default_multi_grid():
    model = from_tensorflow(variables_of(random_network("resnet50")))
    assert model.encoder.backbone.multi_grid == (1, 1, 1)


def test_released_label_sets_get_their_names(mobilenet):
    assert from_tensorflow(mobilenet).classes[15] == "person"
    assert create_model("mobilenet_v2", num_classes=21).classes[15] == "class_15"


def test_loading_at_a_stride_equals_changing_to_it(mobilenet):
    loaded, changed = from_tensorflow(mobilenet, output_stride=8), from_tensorflow(mobilenet)
    changed.set_output_stride(8)
    images = torch.randint(0, 256, (1, 3, 50, 65), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(loaded(images), changed(images))
