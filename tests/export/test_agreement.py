"""Export measures how many labels survive bfloat16, and the file decides its own precision."""

from pathlib import Path

import numpy as np
import pytest

from atrous.engines import openvino
from atrous.engines.exported_file import read_header
from atrous.engines.openvino import Compiler, ExportedEngine, has_bf16_units
from atrous.engines.openvino_graph import NARROW
from atrous.export import agreement
from atrous.export.export import export
from atrous.predict.predictor import Predictor
from atrous.predict.upsample import labels
from tests.export.test_export import lively, picture


@pytest.mark.parametrize("units", [True, False])
def test_the_file_holds_the_share_of_equal_labels_and_how_it_was_measured(
    units: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if units and not has_bf16_units():
        pytest.skip("needs a processor with bf16 units")
    monkeypatch.setattr(agreement, "has_bf16_units", lambda: units)
    model = lively("mobilenet_v2", depth_multiplier=0.35)
    pictures = [picture(97, 129), picture(65, 65)]
    header = export(model, tmp_path / "m.onnx", pictures=pictures)
    assert read_header(tmp_path / "m.onnx") == header
    assert header.bf16_agreement is not None
    assert 0.9 < header.bf16_agreement <= 1
    assert ("OpenVINO" if units else "torch") in header.bf16_measured
    assert "2 pictures" in header.bf16_measured
    if not units:
        return
    equal = total = 0
    for image in pictures:
        exact, rounded = (
            labels(
                ExportedEngine(
                    tmp_path / "m.onnx", keep_compiled=False, precision=precision
                ).coarse_logits(image),
                header.logits_stride,
                image.shape[:2],
            )
            for precision in ("fp32", "bf16")
        )
        equal, total = equal + (exact == rounded).sum(), total + exact.size
    assert header.bf16_agreement == equal / total


def test_a_file_without_the_figure_runs_in_fp32(tmp_path: Path) -> None:
    header = export(lively("mobilenet_v2", depth_multiplier=0.35), tmp_path / "m.onnx")
    assert header.bf16_agreement is None
    assert Predictor(tmp_path / "m.onnx").precision == "fp32"


def test_auto_takes_bf16_where_labels_agree_and_the_processor_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lively("mobilenet_v2", depth_multiplier=0.35)
    monkeypatch.setattr("atrous.export.export.bf16_agreement", lambda *_: (0.999, "made up"))
    export(model, tmp_path / "m.onnx", pictures=[np.zeros((33, 33, 3), np.uint8)])
    for units, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(openvino, "has_bf16_units", lambda units=units: units)
        assert Predictor(tmp_path / "m.onnx").precision == precision
        assert Predictor(tmp_path / "m.onnx", precision="fp32").precision == "fp32"


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v2",
        pytest.param("xception41", marks=pytest.mark.slow),
        pytest.param("timm/resnet18", marks=pytest.mark.slow),
    ],
)
def test_bf16_leaves_narrow_layers_of_the_finest_strides_in_fp32(name: str, tmp_path: Path) -> None:
    if not has_bf16_units():
        pytest.skip("needs a processor with bf16 units")
    export(lively(name), tmp_path / "m.onnx")
    compiler = Compiler(tmp_path / "m.onnx", 1, keep_compiled=False, precision="bf16")
    requests = compiler.compile((1, 96, 96, 3))
    found: dict[str, set[bool]] = {"f32": set(), "bf16": set()}
    for node in requests.compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        if facts["layerType"].astype(str) == "Convolution" and "backbone" in node.friendly_name:
            kind = facts["runtimePrecision"].astype(str)
            channels, rows = node.get_output_shape(0)[1:3]
            found[kind].add(rows >= 96 // 2 and channels <= NARROW)
    assert found == {"f32": {True}, "bf16": {False}}
    assert np.isfinite(requests.infer({0: picture(96, 96)[None]})).all()


def test_the_emulation_agrees_with_the_processor(tmp_path: Path) -> None:
    if not has_bf16_units():
        pytest.skip("needs a processor with bf16 units")
    model = lively("mobilenet_v2", depth_multiplier=0.5)
    image = picture(129, 129)
    export(model, tmp_path / "m.onnx")
    exact, real = (
        ExportedEngine(tmp_path / "m.onnx", keep_compiled=False, precision=precision)
        for precision in ("fp32", "bf16")
    )
    reference = exact.coarse_logits(image)
    errors = [
        float(np.abs(engine.coarse_logits(image) - reference).mean() / reference.std())
        for engine in (real, agreement._rounding(model))
    ]
    assert 0.5 < errors[0] / errors[1] < 2
