import importlib
import json
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from atrous.build import create_model
from atrous.errors import AtrousError
from atrous.layers import ConvBN
from atrous.loading import from_tensorflow
from atrous.weights.tensorflow.names import ROOTS, scope_of
from tests.networks import random_network
from tests.weights.tensorflow import authors_network
from tests.weights.tensorflow.authors_network import Case

SLOW = pytest.mark.slow
CASES = [
    "mobilenet_v2_os16",
    "mobilenet_v3_small_seg",
    "resnet_v1_101_beta_os16_decoder4",
    "xception_65_os16_decoder4",
]


@pytest.fixture
def reference_value(shared, monkeypatch):
    """Gives the values of the reference models' variables, from their names."""
    monkeypatch.syspath_prepend(shared / "tf_reference")
    monkeypatch.delitem(sys.modules, "values", raising=False)
    return importlib.import_module("values").value


def check_outputs(model, image, expected, labels, *, tolerance=1e-3):
    """Compares with the authors' outputs: coarse logits (1, h, w, K) and labels (1, H, W)."""
    images = torch.from_numpy(image).permute(0, 3, 1, 2)
    with torch.inference_mode():
        coarse = model.coarse_logits(images).permute(0, 2, 3, 1).numpy()
        logits = model(images).permute(0, 2, 3, 1).numpy()
    deviation = expected.std((1, 2)).mean()
    assert np.abs(coarse - expected).max() < tolerance * deviation
    top_two = np.sort(logits, axis=3)[..., -2:]
    decided = top_two[..., 1] - top_two[..., 0] > tolerance * deviation
    assert decided.mean() > 0.99
    assert (logits.argmax(3) == labels)[decided].all()


@pytest.mark.parametrize("name", CASES)
def test_outputs_of_the_authors_code_are_reproduced(shared, reference_value, name):
    folder = shared / "tf_reference"
    case = json.loads((folder / f"{name}.json").read_text())
    reference = np.load(folder / f"{name}.npz")
    settings = {k: case["case"].get(k) for k in ("output_stride", "atrous_rates", "multi_grid")}
    variables = {n: reference_value(n, s) for n, s in case["variables"].items()}
    model = from_tensorflow(variables, **settings)
    check_outputs(model, reference["image"], reference["logits"], reference["labels"])


@pytest.mark.parametrize("name", [CASES[0], *(pytest.param(n, marks=SLOW) for n in CASES[1:])])
def test_second_implementation_equals_the_authors_code(shared, reference_value, name):
    folder = shared / "tf_reference"
    case = json.loads((folder / f"{name}.json").read_text())
    reference, settings = np.load(folder / f"{name}.npz"), case["case"]
    described = Case(
        settings["variant"], settings["output_stride"], tuple(settings["size"]),
        rates=tuple(settings.get("atrous_rates", ())),
        decoder=tuple(map(int, settings.get("decoder_output_stride", ()))),
        multi_grid=tuple(settings.get("multi_grid", (1, 1, 1))), classes=settings["classes"],
    )  # fmt: skip
    logits, _, variables = authors_network.run(described, reference["image"], reference_value)
    assert {n: list(v.shape) for n, v in variables.items()} == case["variables"]
    assert np.abs(logits - reference["logits"]).max() < 1e-3 * logits.std((1, 2)).mean()


# Sizes are k * 32 + 1, or k * output stride + 1: elsewhere this project keeps its own geometry.
OTHER_CASES = [
    Case("mobilenet_v2", 8, (33, 49)),
    Case("mobilenet_v2", 16, (49, 65), rates=(6, 12, 18), decoder=(8, 4), depth_multiplier=0.35),
    Case("mobilenet_v2", 16, (33, 33), decoder=(16, 8, 4), depth_multiplier=1.4),
    Case("mobilenet_v3_small_seg", 8, (33, 65), decoder=(8,)),
    Case("resnet_v1_50", 16, (33, 65), rates=(6, 12, 18), decoder=(4,), decoder_separable=False),
]
MORE_CASES = [
    Case("mobilenet_v2", 4, (33, 49), rates=(24, 48, 72)),
    Case(
        "mobilenet_v2", 32, (129, 97), (3, 6, 9), (8, 4), separable=False, decoder_separable=False
    ),
    Case("mobilenet_v2", 16, (97, 97), depth_multiplier=0.5),
    Case("mobilenet_v3_large_seg", 16, (97, 129)),
    Case("mobilenet_v3_large_seg", 32, (129, 129), (3, 6, 9), (4,)),
    Case("mobilenet_v3_small_seg", 16, (97, 129), image_pooling=False),
    Case("xception_41", 16, (97, 129), (6, 12, 18), (4,)),
    Case("xception_41", 8, (65, 97), (12, 24, 36), separable=False),
    Case("xception_65", 8, (97, 65), (12, 24, 36), (4,)),
    Case("xception_65", 32, (129, 97), (3, 6, 9), (8, 4)),
    Case("xception_71", 16, (97, 113), (6, 12, 18), (8, 4), decoder_separable=False),
    Case("xception_71", 8, (65, 73), (12, 24, 36), (4,), image_pooling=False),
    Case("resnet_v1_50_beta", 8, (65, 97), (12, 24, 36), (4,), (1, 2, 4)),
    Case("resnet_v1_50_beta", 32, (97, 129), (3, 6, 9), (4,), (1, 2, 1), decoder_separable=False),
    Case("resnet_v1_50_beta", 16, (81, 97), decoder=(8, 4)),
    Case("resnet_v1_101", 8, (65, 65), (12, 24, 36), (8, 4), (1, 2, 4), separable=False),
]


@pytest.mark.parametrize(
    "case", [*OTHER_CASES, *(pytest.param(c, marks=SLOW) for c in MORE_CASES)], ids=str
)
def test_other_backbones_strides_heads_and_sizes_equal_the_second_implementation(case):
    image = authors_network.picture(case.size)
    logits, labels, variables = authors_network.run(case, image)
    rates, grid = case.rates or None, case.multi_grid
    model = from_tensorflow(
        variables, output_stride=case.output_stride, atrous_rates=rates, multi_grid=grid
    )
    if case.variant == "mobilenet_v2":
        assert model.architecture.depth_multiplier == case.depth_multiplier
    check_outputs(model.double(), image, logits, labels, tolerance=1e-9)


def variables_of(model):
    """Writes a model as the authors' variables: the inverse of loading."""
    architecture = model.architecture
    root = ROOTS[architecture.backbone]
    stem = "conv1_" if architecture.stem == "beta" else "conv"
    variables = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            scope = scope_of(path, root=root, stem=stem)
            variables[f"{scope}/weights"] = module.weight.detach().numpy().transpose(2, 3, 1, 0)
            variables[f"{scope}/biases"] = module.bias.detach().numpy()
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
    return variables


FAMILIES = [
    ("xception41", {"separable": False, "image_pooling": False}),
    ("xception71", {"decoder_strides": (8, 4), "refine": ((3, 128),)}),
    ("resnet50", {"stem": "plain", "separable": False, "decoder_strides": (8, 4)}),
    ("resnet50", {"decoder": False, "decoder_separable": None, "in_channels": 4}),
    ("mobilenet_v2", {"depth_multiplier": 0.5, "atrous_rates": (), "reduced_channels": 32}),
    ("mobilenet_v2", {"decoder_separable": False, "refine": ((3, 64), (3, 32), (3, 16))}),
    ("mobilenet_v2", {"separable": False, "decoder_separable": True}),
    ("mobilenet_v3_large", {"atrous_rates": (), "decoder": False}),
    ("mobilenet_v3_small", {"atrous_rates": (6, 12, 18), "decoder_strides": (8, 4)}),
    ("xception71", {"head": "dense_prediction_cell"}),
]


@pytest.mark.parametrize(("backbone", "options"), FAMILIES)
def test_what_a_network_is_shows_in_its_variables(backbone, options):
    original = random_network(backbone, num_classes=5, **options)
    loaded = from_tensorflow(variables_of(original), multi_grid=original.architecture.multi_grid)
    assert loaded.architecture.head == original.architecture.head
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
    ("mobilenet_v3_small", "MobilenetV3/expanded_conv/squeeze_excite/Conv/biases", [8]),
    ("mobilenet_v3_small", "MobilenetV3/expanded_conv_10/squeeze_excite/Conv_1/weights",
     [1, 1, 72, 288]),
    ("mobilenet_v3_large", "MobilenetV3/Conv_1/weights", [1, 1, 80, 480]),
]  # fmt: skip


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
    assert model.provenance.notes == [
        "left out: optimizer slots (1): concat_projection/weights/Momentum",
        "left out: counters (1): global_step",
        "left out: classifier of ImageNet (1): MobilenetV2/Logits/Conv2d_1c_1x1/biases",
        "trained for 7 steps",
    ]


def test_strange_variables_are_reported_never_dropped_silently(mobilenet, caplog):
    model = from_tensorflow({**mobilenet, "my_head/weights": np.zeros(3)})
    assert "my_head/weights" in caplog.text
    assert "left out: unknown: my_head/weights" in model.provenance.notes


def test_a_left_over_variable_of_the_network_means_another_network(mobilenet):
    stranger = "MobilenetV2/expanded_conv_3/squeeze/weights"
    with pytest.raises(AtrousError) as caught:
        from_tensorflow({**mobilenet, stranger: np.zeros(3, np.float32)})
    assert caught.value.code == "E-WEIGHTS-MISMATCH"
    (row,) = (line for line in caught.value.what.splitlines() if stranger in line)
    assert row.split() == [stranger, "unexpected", "-", "3"]


def test_missing_and_misshapen_variables_are_listed(mobilenet):
    broken = dict(mobilenet)
    del broken["aspp0/BatchNorm/gamma"]
    broken["concat_projection/BatchNorm/beta"] = np.zeros(3, np.float32)
    with pytest.raises(AtrousError) as caught:
        from_tensorflow(broken)
    rows = [line.split() for line in caught.value.what.splitlines()]
    assert "(1 missing, 0 unexpected, 1 misshapen)" in caught.value.what
    assert ["aspp0/BatchNorm/gamma", "missing", "256", "-"] in rows
    assert ["concat_projection/BatchNorm/beta", "wrong", "shape", "256", "3"] in rows


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_W13_variables_that_are_not_finite_are_refused(mobilenet, value):
    broken = {**mobilenet, "logits/semantic/biases": np.full(21, value)}
    with pytest.raises(AtrousError, match=r"logits/semantic/biases.*E-WEIGHTS-NAN"):
        from_tensorflow(broken)


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        ({}, "E-WEIGHTS-BACKBONE"),
        ({"inception/conv/weights": np.zeros(1)}, "E-WEIGHTS-BACKBONE"),
        ({"xception_65/entry_flow/conv1_1/weights": np.zeros((3, 3, 3, 32))}, "E-WEIGHTS-HEAD"),
    ],
)
def test_variables_of_other_networks_are_refused(variables, code):
    with pytest.raises(AtrousError, match=code):
        from_tensorflow(variables)


def test_rates_must_be_as_many_as_the_branches(mobilenet):
    with pytest.raises(AtrousError, match="E-WEIGHTS-RATES"):
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


def lr_aspp_variables(model):
    """As the authors' released MobileNetV3 models: two classifiers whose outputs are added."""
    variables = variables_of(model)
    weights = variables.pop("logits/semantic/weights")  # (1, 1, 128 + low-level, K)
    biases = variables.pop("logits/semantic/biases")
    variables["decoder/decoder_conv0/weights"] = weights[:, :, :128]
    variables["decoder/feature_projection0/weights"] = weights[:, :, 128:]
    variables["decoder/decoder_conv0/biases"] = biases / 4
    variables["decoder/feature_projection0/biases"] = biases - biases / 4
    return variables


@pytest.mark.parametrize(("variant", "low_level"), [("large", 120), ("small", 88)])
def test_lr_aspp_shows_in_its_variables(variant, low_level):
    original = random_network(
        f"mobilenet_v3_{variant}",
        num_classes=19,
        head="lr_aspp",
        decoder_strides=(8,),
        reduced_channels=None,
        refine=(),
    )
    variables = lr_aspp_variables(original)
    assert variables["image_pooling/biases"].shape == (128,)
    assert variables["decoder/feature_projection0/weights"].shape == (1, 1, low_level, 19)
    assert not any(name.startswith(("concat_projection", "logits")) for name in variables)
    loaded = from_tensorflow(variables, output_stride=32)
    original.set_output_stride(32)
    assert loaded.architecture.head == "lr_aspp"
    images = torch.randint(0, 256, (1, 3, 97, 130), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images), original(images), rtol=1e-5, atol=1e-5)


def test_the_sum_of_two_classifiers_is_one_of_both_features():
    model = random_network(
        "mobilenet_v3_small",
        head="lr_aspp",
        decoder_strides=(8,),
        reduced_channels=None,
        refine=(),
        output_stride=32,
    )
    images = torch.randint(0, 256, (1, 3, 65, 65), dtype=torch.uint8)
    weight, bias = model.decoder.classifier.weight, model.decoder.classifier.bias
    with torch.inference_mode():
        encoded, low_level = model.encoder(model.normalize(images))
        encoded = F.interpolate(encoded, (9, 9), mode="bilinear", align_corners=True)
        high = F.conv2d(encoded, weight[:, :128], bias)
        low = F.conv2d(low_level[8], weight[:, 128:])
        torch.testing.assert_close(model.coarse_logits(images), high + low, rtol=1e-5, atol=1e-5)
