"""Labels in an exported file are those of `Predictor`, with ties and borders."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime import InferenceSession

from atrous import Predictor, create_model
from atrous.engines import built_in
from atrous.engines.exported_file import read_header
from atrous.engines.openvino import ExportedEngine
from atrous.engines.openvino_package import openvino_core
from atrous.errors import AtrousError
from atrous.export import labels as in_file
from atrous.export.export import export
from atrous.predict.upsample import plain_labels
from tests.export.test_export import lively, picture

SIZES = ((65, 97), (64, 82), (1, 1), (2, 7), (50, 3))  # odd, even, tiny


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The built-in model without and with labels."""
    folder = tmp_path_factory.mktemp("labels")
    for name in ("plain.onnx", "labels.onnx"):
        shutil.copy(built_in.find(built_in.DEFAULT), folder / name)
    in_file.add_labels(folder / "labels.onnx", [picture(33, 18)])
    return folder / "plain.onnx", folder / "labels.onnx"


def test_labels_are_the_predictors_in_every_pixel(files: tuple[Path, Path]) -> None:
    session = InferenceSession(files[1])
    plain, labelled = (Predictor(path, precision="fp32") for path in files)
    for size in SIZES:
        found = session.run(["labels"], {"image": picture(*size)[None]})[0]
        assert (found.shape, found.dtype) == (size, np.uint8)
        assert np.array_equal(found, plain(picture(*size)).labels)
        assert np.array_equal(found, labelled(picture(*size)).labels)


def test_our_engine_leaves_the_labels_out(files: tuple[Path, Path]) -> None:
    image = picture(33, 50)
    plain, labelled = (ExportedEngine(path, keep_compiled=False) for path in files)
    assert plain.fingerprint == labelled.fingerprint  # a second run of predict keeps its files
    assert plain.bytes_per_pixel == labelled.bytes_per_pixel
    features = plain.high_level(image)
    assert np.array_equal(features, labelled.high_level(image))
    pooled = features.mean((0, 1))
    assert np.array_equal(plain.tile_logits(image, pooled), labelled.tile_logits(image, pooled))


def test_the_lowest_of_equal_classes_wins_in_every_runtime(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / "ties.onnx"
    proto = onnx.load(files[1])
    for tensor in proto.graph.initializer:
        if tensor.name in ("decoder.classifier.weight", "decoder.classifier.bias"):
            values = numpy_helper.to_array(tensor).copy()
            values[5:] = values[:16]  # class k + 5 ties with class k everywhere
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(proto, path)
    compiled = openvino_core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for size in SIZES:
        inputs = {"image": picture(*size)[None]}
        labels, logits = InferenceSession(path).run(["labels", "logits"], inputs)
        assert labels.max() < 5
        assert np.array_equal(labels, plain_labels(logits[0], 4, size))
        assert np.array_equal(labels, compiled(inputs)["labels"])


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ({"decoder": False, "num_classes": 300}, {"size": (35, 50)}),  # stride 16, 16 bits
        pytest.param({}, {"half": True}, marks=pytest.mark.slow),
    ],
)
def test_export_writes_labels(network: dict, options: dict, tmp_path: Path) -> None:
    model = create_model("mobilenet_v2", **{"num_classes": 5, "depth_multiplier": 0.35} | network)
    path = tmp_path / "model.onnx"
    header = export(model, path, labels=True, **options)
    assert header == read_header(path)
    image = picture(35, 50)
    labels, logits = InferenceSession(path).run(["labels", "logits"], {"image": image[None]})
    assert labels.dtype == (np.uint16 if len(header.classes) > 256 else np.uint8)
    assert np.array_equal(labels, plain_labels(logits[0], header.logits_stride, (35, 50)))


@pytest.mark.slow
def test_int8_files_hold_labels_too(tmp_path: Path) -> None:
    from atrous.export.int8 import quantize

    path = tmp_path / "int8.onnx"
    images = [picture(65, 64 + i) for i in range(4)]
    quantize(lively("mobilenet_v2", depth_multiplier=0.5), path, images, budget=None, labels=True)
    labels, logits = InferenceSession(path).run(None, {"image": images[0][None]})
    assert np.array_equal(labels, plain_labels(logits[0], 4, (65, 64)))
    assert np.array_equal(labels, plain_labels(logits[0], 4, Predictor(path)(images[0]).size))


def test_a_graph_with_other_labels_is_refused(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(files[0], tmp_path / "model.onnx")
    monkeypatch.setattr(in_file.upsample, "labels", lambda _logits, _stride, size: np.full(size, 7))
    with pytest.raises(AtrousError) as caught:
        in_file.add_labels(tmp_path / "model.onnx", [np.full((9, 9, 3), 255, np.uint8)])
    assert caught.value.code == "E-EXPORT-LABELS"
