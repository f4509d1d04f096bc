"""Pre-annotation for CVAT, with its own SDK on the other side."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import atrous
from atrous.serve import cvat
from tests.engines.test_openvino import tiny

sdk = pytest.importorskip("cvat_sdk.auto_annotation", reason="the extra 'integration' has it")


def context(*, polygons: bool = False, threshold: float | None = None) -> SimpleNamespace:
    return SimpleNamespace(frame_name="a", conf_threshold=threshold, conv_mask_to_poly=polygons)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "cache"))
    return tiny(tmp_path / "tiny.onnx", gain=0.01)


@pytest.fixture
def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (6, 9, 1), np.uint8)
    return Image.fromarray(np.kron(np.repeat(values, 3, 2), np.ones((8, 8, 1), np.uint8)))


def test_masks_decode_to_the_labels(model: Path, picture: Image.Image) -> None:
    from cvat_sdk.masks import decode_mask

    function = cvat.create(str(model), skip="")
    labels = atrous.Predictor(model)(picture).labels
    shapes = function.detect(context(), picture)
    assert sorted(shape.label_id for shape in shapes) == np.unique(labels).tolist()
    for shape in shapes:
        mask = decode_mask(shape.points, image_width=picture.width, image_height=picture.height)
        np.testing.assert_array_equal(mask, labels == shape.label_id)


def test_labels_are_the_classes_but_those_skipped(model: Path, picture: Image.Image) -> None:
    function = cvat.create(str(model), skip="dark")
    assert [label.name for label in function.spec.labels] == ["light"]
    assert {shape.label_id for shape in function.detect(context(), picture)} == {1}


def test_polygons_and_thresholds_are_obeyed(model: Path, picture: Image.Image) -> None:
    function = cvat.create(str(model), skip="")
    labels = atrous.Predictor(model)(picture).labels
    polygons = function.detect(context(polygons=True), picture)
    assert {shape.type.value for shape in polygons} == {"polygon"}
    sure = atrous.Predictor(model, unknown_below=0.999)(picture).labels
    assert (sure == 255).any()
    (light,) = (s for s in function.detect(context(threshold=0.999), picture) if s.label_id == 1)
    assert light.points == cvat.encoded(sure == 1) != cvat.encoded(labels == 1)


def test_cvat_cli_loads_the_module(model: Path) -> None:
    common = pytest.importorskip("cvat_cli._internal.common")
    loader = common.FunctionLoader("atrous.serve.cvat", None, {"model": str(model), "skip": ""})
    assert isinstance(loader.load().spec, sdk.DetectionFunctionSpec)
