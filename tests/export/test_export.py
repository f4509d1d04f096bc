"""The exported file computes what the torch model does, and says what it is."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import atrous
from atrous import create_model, from_tflite, load
from atrous.architecture import Training
from atrous.classes import ClassTable, pascal_palette
from atrous.engines.exported_file import read_header
from atrous.engines.openvino import ExportedEngine
from atrous.engines.torch import TorchEngine, torch_logits
from atrous.errors import AtrousError
from atrous.export.export import export
from atrous.model import DeepLabV3Plus
from atrous.weights.edit_classes import change_classes, graft

ROUNDING = 5e-4  # of float32 in random networks; against float64 torch itself is at 1e-4


def lively(name: str, **options: object) -> DeepLabV3Plus:
    """Returns a network with the statistics of its own signals, so that every layer matters."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, **options).train()  # type: ignore[arg-type]
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.weight.data.uniform_(0.7, 1.3)
        norm.bias.data.normal_(0, 0.2)
    images = torch.randint(0, 256, (2, model.architecture.in_channels, 65, 65), dtype=torch.uint8)
    if model.architecture.dtype != "uint8":
        images = model.normalize.mean + model.normalize.std * (images / 127.5 - 1)
    with torch.inference_mode():
        model(images)
    return model.eval()


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mobilenet_v2", {}),
        ("mobilenet_v2", {"decoder_strides": (8, 4), "output_stride": 8}),
        ("mobilenet_v2", {"decoder_strides": (8,), "output_stride": 4}),
        pytest.param(
            "mobilenet_v2", {"decoder": False, "output_stride": 4}, marks=pytest.mark.slow
        ),
        ("mobilenet_v2", {"image_pooling": False, "separable": False, "refine": ((1, 16),)}),
        ("mobilenet_v2", {"decoder": False, "atrous_rates": (), "depth_multiplier": 0.5}),
        pytest.param("mobilenet_v2", {"refine": (), "output_stride": 32}, marks=pytest.mark.slow),
        pytest.param("timm/mobilenetv3_small_100", {}, marks=pytest.mark.slow),
        ("timm/resnet18", {}),
        pytest.param("xception41", {}, marks=pytest.mark.slow),
        pytest.param("resnet50", {"stem": "plain"}, marks=pytest.mark.slow),
        pytest.param("timm/regnety_002", {}, marks=pytest.mark.slow),
    ],
)
def test_exported_model_equals_torch_at_any_size(
    name: str, options: dict[str, object], tmp_path: Path
) -> None:
    _check_export(lively(name, **options), tmp_path)


def test_image_pooling_of_a_coarser_stride_is_exported(tmp_path: Path) -> None:
    model = lively("mobilenet_v2", decoder=False, depth_multiplier=0.5)
    finer = replace(model.architecture, output_stride=8, decoder=True)
    grafted, _ = graft(model, finer)
    assert grafted.architecture.pooling_stride == 16
    _check_export(grafted.eval(), tmp_path)


def test_classes_of_several_rows_are_exported_and_read_back(tmp_path: Path) -> None:
    model = lively("mobilenet_v2", decoder=False, depth_multiplier=0.5)
    model.name_classes(ClassTable("", tuple("abcde"), pascal_palette(5)))
    change_classes(model, ("x", "b", "d"), rest="x")
    assert model.architecture.extra_rows == (0, 0, 0)
    _check_export(model.eval(), tmp_path)
    again = load(tmp_path / "model.onnx")
    assert again.architecture.extra_rows == (0, 0, 0)


def _check_export(model: DeepLabV3Plus, tmp_path: Path) -> None:
    export(model, tmp_path / "model.onnx")
    engine = ExportedEngine(tmp_path / "model.onnx", keep_compiled=False)
    for size in ((65, 97), (64, 80), (1, 37), (50, 3)):
        expected = torch_logits(model, picture(*size))
        found = engine.coarse_logits(picture(*size))
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < ROUNDING * expected.std()


def test_weights_in_half_the_bytes_give_nearly_the_same_logits(tmp_path: Path) -> None:
    model = lively("mobilenet_v2", depth_multiplier=0.5)
    export(model, tmp_path / "whole.onnx")
    header = export(model, tmp_path / "half.onnx", half=True)
    whole, half = tmp_path / "whole.onnx", tmp_path / "half.onnx"
    assert header.precision == "float16"
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    logits = [
        ExportedEngine(path, keep_compiled=False).coarse_logits(picture(65, 97))
        for path in (whole, half)
    ]
    difference = np.abs(logits[0] - logits[1]).max() / logits[0].std()
    assert 0 < difference < 0.05


def test_file_says_what_it_is(tmp_path: Path) -> None:
    model = lively("mobilenet_v2")
    model.provenance.licence = "Apache-2.0"
    model.provenance.source = "a test"
    model.provenance.notes = ["photographs by nobody"]
    model.provenance.training = Training(recipe="a recipe", crop_size=(33, 65))
    written = export(model, tmp_path / "model.onnx")
    read = read_header(tmp_path / "model.onnx")
    assert read == written
    assert read.training["recipe"] == "a recipe"
    assert read.training["crop_size"] == [33, 65]
    assert read.notes == ("photographs by nobody",)
    assert read.classes == model.classes
    assert read.palette == model.palette
    assert (read.output_stride, read.logits_stride) == (16, 4)
    assert (read.licence, read.source) == ("Apache-2.0", "a test")
    assert read.reach > 0
    properties = {p.key: p.value for p in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert json.loads(properties["classes"]) == list(model.classes)


def test_batch_norm_is_folded(tmp_path: Path) -> None:
    export(lively("mobilenet_v2"), tmp_path / "model.onnx")
    kinds = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert "BatchNormalization" not in kinds
    assert "Div" not in kinds  # nor is the normalisation's left


def test_hash_follows_the_weights(tmp_path: Path) -> None:
    model = lively("mobilenet_v2", decoder=False, atrous_rates=())
    first = export(model, str(tmp_path / "a.onnx")).sha256
    assert export(model, tmp_path / "b.onnx").sha256 == first
    with torch.no_grad():
        model.decoder.classifier.bias += 1
    assert export(model, tmp_path / "c.onnx").sha256 != first


def test_fixed_size_is_kept(tmp_path: Path) -> None:
    model = lively("mobilenet_v2")
    export(model, tmp_path / "model.onnx", size=(33, 49))
    engine = ExportedEngine(tmp_path / "model.onnx", keep_compiled=False)
    expected = torch_logits(model, picture(33, 49))
    assert (
        np.abs(engine.coarse_logits(picture(33, 49)) - expected).max() < ROUNDING * expected.std()
    )
    with pytest.raises(AtrousError, match=r"33 x 49.*E-MODEL-SIZE") as caught:
        engine.coarse_logits(picture(33, 50))
    assert caught.value.code == "E-MODEL-SIZE"


def test_training_mode_survives_export(tmp_path: Path) -> None:
    model = lively("mobilenet_v2", decoder=False, atrous_rates=()).train()
    export(model, tmp_path / "model.onnx")
    assert model.training


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_other_channels_are_exported_and_read_back(tmp_path: Path, dtype: str) -> None:
    """`export` compares the file with torch itself; the header says what the file reads."""
    names = ("nir", "red", "green", "blue", "height")
    model = lively(
        "mobilenet_v2", decoder=False, atrous_rates=(), in_channels=5, channels=names,
        dtype=dtype, mean=(900.0, 80, 90, 70, 5), std=(300.0, 40, 50, 30, 9),
    )  # fmt: skip
    header = export(model, tmp_path / "model.onnx")
    assert (header.bands.names, header.bands.dtype) == (names, dtype)
    assert header.bands.mean == (900.0, 80, 90, 70, 5)
    assert header.properties()["atrous_format"] == "2"
    graph = onnx.load(tmp_path / "model.onnx").graph.input[0].type.tensor_type
    assert graph.elem_type == onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    assert graph.shape.dim[3].dim_value == 5
    assert atrous.load(tmp_path / "model.onnx").bands == model.bands


def test_pixels_without_a_value_count_as_the_mean(tmp_path: Path) -> None:
    model = lively(
        "mobilenet_v2", decoder=False, atrous_rates=(), in_channels=1, channels=("height",),
        dtype="float32", mean=(20.0,), std=(5.0,),
    )  # fmt: skip
    export(model, tmp_path / "model.onnx")
    image = np.random.default_rng(0).normal(20, 5, (33, 33, 1)).astype(np.float32)
    with_holes, with_means = image.copy(), image.copy()
    with_holes[5:9, 5:9], with_means[5:9, 5:9] = np.nan, 20
    for engine in (TorchEngine(model), ExportedEngine(tmp_path / "model.onnx")):
        found, expected = map(engine.coarse_logits, (with_holes, with_means))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * expected.std())


def test_unknown_operation_is_refused(tmp_path: Path) -> None:
    model = create_model("timm/convnext_atto", num_classes=2)
    with pytest.raises(AtrousError) as caught:
        export(model, tmp_path / "model.onnx")
    assert caught.value.code == "E-EXPORT-OPERATION"
    assert not list(tmp_path.iterdir())


def spoiled(name: str) -> Callable[[torch.nn.Module, object, torch.Tensor], torch.Tensor]:
    def hook(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        return output + 1

    return hook


@pytest.mark.parametrize(
    "layer",
    ["encoder.backbone.units.3.expand.bn", "encoder.aspp.atrous.1.depthwise", "decoder.stages.0"],
)
def test_P10_export_that_differs_is_not_published_and_names_the_layer(
    layer: str, tmp_path: Path
) -> None:
    model = lively("mobilenet_v2")
    module = dict(model.named_modules())[layer]
    # Torch computes something the graph does not say.
    module.register_forward_hook(spoiled(layer))
    with pytest.raises(AtrousError) as caught:
        export(model, tmp_path / "model.onnx")
    assert caught.value.code == "E-EXPORT-DIFFERS"
    assert f"first layer to differ is {layer}," in caught.value.what
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["deeplabv3_mnv2_pascal_quant.tflite", "deeplabv3_mnv2_ade20k_uint8.tflite"]
)
def test_imported_graph_with_its_padding_equals_torch(
    name: str, shared: Path, tmp_path: Path
) -> None:
    model = from_tflite(shared / "weights" / name)
    header = export(model, tmp_path / "model.onnx")
    assert header.source_sha256 == model.provenance.sha256
    engine = ExportedEngine(tmp_path / "model.onnx", keep_compiled=False)
    for size in ((128, 96), (97, 130)):
        expected = torch_logits(model, picture(*size))
        found = engine.coarse_logits(picture(*size))
        assert np.abs(found - expected).max() < ROUNDING * expected.std()
