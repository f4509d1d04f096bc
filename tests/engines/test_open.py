"""A name or a path that is no model is called what it is, with torch and without."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atrous.engines import openvino
from atrous.engines.exported_file import read_header
from atrous.engines.open import open_engine
from atrous.engines.openvino import ExportedEngine, chosen_precision
from atrous.engines.torch import TorchEngine
from atrous.errors import AtrousError, missing_extra
from tests.engines.test_openvino import header, pictures, tiny
from tests.networks import random_network


@pytest.mark.parametrize(
    ("name", "near"), [("streets", "street"), ("Street", "street"), ("animal", "animals")]
)
def test_unknown_names_get_the_nearest(name: str, near: str) -> None:
    with pytest.raises(AtrousError) as caught:
        open_engine(name)
    assert caught.value.code == "E-MODEL-MISSING"
    assert near in caught.value.fix


@pytest.mark.parametrize("name", ["missing.onnx", "gone/model.safetensors", "none.tflite"])
def test_a_file_that_is_missing_is_called_missing(name: str) -> None:
    with pytest.raises(AtrousError) as caught:
        open_engine(name)
    assert caught.value.code == "E-MODEL-MISSING"


def test_a_missing_file_gets_the_nearest_beside_it(tmp_path: Path) -> None:
    tiny(tmp_path / "model.onnx")
    with pytest.raises(AtrousError) as caught:
        open_engine(tmp_path / "modle.onnx")
    assert "model.onnx" in caught.value.fix


def not_models(folder: Path) -> dict[str, Path]:
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "p.jpg")
    (folder / "p.onnx").write_bytes((folder / "p.jpg").read_bytes())
    (folder / "p.safetensors").write_bytes((folder / "p.jpg").read_bytes())
    (folder / "notes.txt").write_text("notes")
    (folder / "empty").mkdir()
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["p.jpg", "p.onnx", "p.safetensors", "notes.txt", "empty"])
def test_what_is_no_model_is_called_what_it_is(name: str, tmp_path: Path) -> None:
    with pytest.raises(AtrousError) as caught:
        open_engine(not_models(tmp_path / "files")[name])
    assert caught.value.code in ("E-MODEL-KIND", "E-MODEL-FORMAT", "E-MODEL-CONTRACT")


def test_without_torch_the_mistakes_are_the_same(tmp_path: Path) -> None:
    files = not_models(tmp_path / "files")
    sources = ["streets", "Street", "missing.onnx", *map(str, files.values())]
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from atrous.engines.open import open_engine\n"
        "from atrous.errors import AtrousError\n"
        "for source in sys.argv[1:]:\n"
        "    try: open_engine(source)\n"
        "    except AtrousError as error: print(error.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *sources], capture_output=True, text=True, check=True
    )
    assert len(done.stdout.split()) == len(sources)
    assert "E-MISSING-EXTRA" not in done.stdout


def test_modules_that_an_operating_system_lacks_are_no_missing_packages() -> None:
    for name in ("fcntl", "resource", "termios"):
        error = missing_extra("training", ModuleNotFoundError("No module", name=name))
        assert error.code == "E-PLATFORM"
        assert "pip install" not in error.fix


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_torch_models_of_every_float_type_run(kind: torch.dtype) -> None:
    model = random_network("mobilenet_v2", depth_multiplier=0.1)
    image = np.random.default_rng(0).integers(0, 256, (33, 49, 3), np.uint8)
    expected = TorchEngine(model).coarse_logits(image)
    engine = TorchEngine(model.to(kind))
    found = engine.coarse_logits(image)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 0.2 * np.abs(expected).max()
    assert len(engine.fingerprint) == 64
    pooled = engine.high_level(image)
    assert pooled is not None
    engine.tile_logits(image, pooled.mean((0, 1)))


def test_torch_models_run_in_the_precision_asked_for() -> None:
    model = random_network("mobilenet_v2", depth_multiplier=0.1)
    assert TorchEngine(model, precision="auto").precision == "fp32"
    assert TorchEngine(model, precision="bf16").precision == "bf16"
    assert next(model.parameters()).dtype == torch.float32  # the engine has its own copy
    with pytest.raises(AtrousError) as caught:
        TorchEngine(model, precision="int8")
    assert caught.value.code == "E-PRECISION"


@pytest.mark.parametrize(
    ("file", "asked", "units", "agreement", "chosen"),
    [
        ("float32", None, True, 1.0, "fp32"),  # evaluation, parity
        ("float32", "auto", True, 1.0, "bf16"),
        ("float32", "auto", True, 0.995, "bf16"),
        ("float32", "auto", True, 0.9949, "fp32"),
        ("float32", "auto", True, None, "fp32"),  # not measured
        ("float32", "auto", False, 1.0, "fp32"),
        ("float16", "auto", True, 1.0, "bf16"),
        ("float32", "fp32", True, 1.0, "fp32"),
        ("float32", "bf16", True, None, "bf16"),
        ("float32", "bf16", False, 1.0, "E-PRECISION"),
        ("float32", "int8", True, 1.0, "E-PRECISION"),
        ("int8", None, True, None, "int8"),
        ("int8", "auto", True, None, "int8"),
        ("int8", "int8", False, None, "int8"),
        ("int8", "fp32", True, None, "E-PRECISION"),
        ("int8", "bf16", True, None, "E-PRECISION"),
    ],
)
def test_precision_follows_file_processor_and_wish(
    file, asked, units, agreement, chosen, monkeypatch
) -> None:
    monkeypatch.setattr(openvino, "has_bf16_units", lambda: units)
    try:
        found = chosen_precision(header(precision=file, bf16_agreement=agreement), asked)
    except AtrousError as error:
        found = error.code
    assert found == chosen


def test_the_agreement_survives_the_file(tmp_path: Path) -> None:
    for agreement in (None, 0.9987):
        properties = header(bf16_agreement=agreement).properties()
        path = tiny(tmp_path / "m.onnx", properties=properties)
        assert read_header(path).bf16_agreement == agreement
    properties = header().properties()
    del properties["bf16_agreement"]  # a file from before
    assert read_header(tiny(tmp_path / "m.onnx", properties=properties)).bf16_agreement is None


@pytest.mark.parametrize("fault", [RuntimeError, IndexError, AttributeError, AssertionError])
def test_a_rewrite_that_fails_leaves_the_graph_as_exported(
    fault: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ExportedEngine(tiny(tmp_path / "tiny.onnx"), keep_compiled=False)
    expected = [plain.coarse_logits(picture) for picture in pictures()]
    assert not plain.rewrite_error

    def broken(_openvino: object, model: object) -> None:
        raise fault("a graph this cannot cut")

    monkeypatch.setattr(openvino, "in_strips", broken)
    engine = ExportedEngine(tmp_path / "tiny.onnx", keep_compiled=False)
    for picture, logits in zip(pictures(), expected, strict=True):
        assert np.array_equal(engine.coarse_logits(picture), logits)
    assert fault.__name__ in engine.rewrite_error
