"""Eight-bit exports: within the budget, or not at all."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from atrous.engines.exported_file import read_header
from atrous.engines.openvino import ExportedEngine
from atrous.engines.torch import torch_logits
from atrous.errors import AtrousError
from atrous.export import int8 as quantizing
from atrous.export.graph import write_graph
from atrous.export.int8 import channel_means, class_iou, quantize, rank_layers, round_weights
from tests.export.test_export import lively, picture

# A network of few layers: no atrous branches, no decoder.
SMALL = {"decoder": False, "atrous_rates": (), "depth_multiplier": 0.35}
PICTURES = [picture(48, 64), picture(64, 48), picture(33, 65), picture(50, 50)]


def test_int8_file_is_smaller_and_close_to_the_model(tmp_path: Path) -> None:
    model = lively("mobilenet_v2", **SMALL)
    report = quantize(model, str(tmp_path / "model.onnx"), PICTURES, budget=None)
    assert read_header(tmp_path / "model.onnx") == report.header
    assert report.header.precision == "int8"
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert onnx.TensorProto.INT8 in {tensor.data_type for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    assert makers[makers["logits"].input[0]].op_type == "Conv"  # whose output is not rounded
    found = ExportedEngine(tmp_path / "model.onnx", keep_compiled=False).coarse_logits(PICTURES[0])
    expected = torch_logits(model, PICTURES[0])
    correlation = np.corrcoef(found.ravel(), expected.ravel())[0, 1]
    assert correlation > 0.9


@pytest.mark.parametrize(
    ("labelled", "message"), [(True, "points of mean IoU"), (False, "% of the pixels")]
)
def test_P11_loss_beyond_the_budget_is_refused_with_the_loss_of_each_class(
    labelled: bool, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lively("mobilenet_v2", **SMALL)
    few = ["decoder.classifier", "encoder.aspp.pointwise"]  # to try: none, then one of them
    monkeypatch.setattr(quantizing, "rank_layers", lambda *_: few)
    targets = [np.arange(p.shape[0])[:, None] % 5 + p[..., 0] * 0 for p in PICTURES]
    with pytest.raises(AtrousError, match=message) as caught:  # no loss can be below -0.5
        quantize(
            model,
            tmp_path / "model.onnx",
            PICTURES,
            targets=targets if labelled else None,
            budget=-0.5,
        )
    assert caught.value.code == "E-INT8-BUDGET"
    assert "class_" in caught.value.what
    assert not list(tmp_path.iterdir())


def test_costly_layers_go_back_to_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively("mobilenet_v2", **SMALL)
    shares = iter([0.4, 0.0])  # of pixels that change with all in 8 bits, with one in float
    monkeypatch.setattr(quantizing, "_changed", lambda *_: next(shares))
    report = quantize(model, tmp_path / "model.onnx", PICTURES[:2], budget=0.01)
    assert read_header(tmp_path / "model.onnx") == report.header
    assert report.kept_float == tuple(rank_layers(model, PICTURES[:1])[:1])
    graph = onnx.load(tmp_path / "model.onnx").graph
    node = next(n for n in graph.node if n.name.startswith(f"{report.kept_float[0]}."))
    assert not node.input[1].endswith("DequantizeLinear_Output")


def test_biases_take_back_what_rounding_adds_on_average(tmp_path: Path) -> None:
    model = lively("mobilenet_v2", **SMALL)
    graph = write_graph(model)
    means = channel_means(model, PICTURES)
    kept = "encoder.backbone.units.1.expand.conv"
    exact = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in graph.proto.initializer}
    round_weights(graph.proto, means, [kept])
    found = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in graph.proto.initializer}
    assert (found[f"{kept}.weight"] == exact[f"{kept}.weight"]).all()
    for node in graph.proto.node:
        if node.op_type != "Conv" or node.name == kept:
            continue
        weight = found[node.input[1]]
        steps = weight / np.abs(weight).max(axis=(1, 2, 3), keepdims=True) * 127
        assert np.abs(steps - steps.round()).max() < 1e-2  # rounding them again changes nothing
        mean = means[node.input[0]]
        groups = len(mean) // weight.shape[1]
        per_filter = np.repeat(mean.reshape(groups, -1), len(weight) // groups, axis=0)

        def output(values: dict[str, np.ndarray]) -> np.ndarray:
            bias = values.get(node.input[2], 0.0)  # noqa: B023
            return (values[node.input[1]].sum((2, 3)) * per_filter).sum(1) + bias  # noqa: B023

        np.testing.assert_allclose(output(found), output(exact), atol=1e-3)


def test_iou_of_classes_leaves_absent_ones_out() -> None:
    truth = [np.array([[0, 0, 1], [1, 1, 255]], np.uint8)]
    found = [np.array([[0, 1, 1], [1, 2, 0]], np.uint8)]
    iou = class_iou(found, truth, 3)
    np.testing.assert_allclose(iou[:2], [1 / 2, 2 / 4])
    assert np.isnan(iou[2])


def test_one_picture_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match="E-INT8-PICTURES"):
        quantize(lively("mobilenet_v2", **SMALL), tmp_path / "model.onnx", PICTURES[:1])


@pytest.mark.parametrize("training", [True, False])
def test_quantising_leaves_the_model_in_its_mode(training: bool, tmp_path: Path) -> None:
    model = lively("mobilenet_v2", **SMALL).train(training)
    quantize(model, tmp_path / "model.onnx", PICTURES[:2], budget=None)
    assert model.training == training
    with pytest.raises(AtrousError):
        quantize(model, tmp_path / "other.onnx", PICTURES[:2], budget=-1.0)
    assert model.training == training
