"""Export measures how many labels survive bfloat16, and the file decides its own precision."""

from pathlib import Path

import numpy as np
import pytest

from atrous.engines import openvino
from atrous.engines.exported_file import read_header
from atrous.engines.openvino import ExportedEngine, has_bf16_units
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
