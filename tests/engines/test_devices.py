"""Files run on the device that is named, and a device that is not there is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from atrous.engines.onnxruntime import OnnxRuntimeEngine
from atrous.engines.openvino import ExportedEngine
from atrous.engines.openvino_package import openvino_core
from atrous.errors import AtrousError
from atrous.predict.batch import Extras, Job
from atrous.predict.find import Picture
from atrous.predict.predictor import Predictor
from tests.engines.test_openvino import expected, pictures, tiny
from tests.export.test_export import lively, picture


@pytest.mark.parametrize("device", ["gpu", "cuda"])
@pytest.mark.parametrize("kind", ["exported", "torch"])
def test_a_device_that_is_not_there_is_refused(
    kind: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "GPU" in " ".join(openvino_core().available_devices):
        pytest.skip("this machine has one")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    model = tiny(tmp_path / "m.onnx") if kind == "exported" else lively("mobilenet_v2")
    with pytest.raises(AtrousError) as caught:
        Predictor(model, device=device)  # type: ignore[arg-type]
    assert caught.value.code == "E-DEVICE"
    assert "cpu" in caught.value.fix


def test_the_engine_for_cards_computes_what_the_file_says(tmp_path: Path) -> None:
    engine = OnnxRuntimeEngine(tiny(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    for image in pictures():
        np.testing.assert_allclose(engine.coarse_logits(image), expected(image), rtol=1e-6)
    assert Predictor(engine, memory=1)(pictures()[0]).labels.shape == (9, 13)  # seen whole
    with pytest.raises(AtrousError) as caught:
        engine.tile_logits(pictures()[0], None)
    assert caught.value.code == "E-TILES"


def test_bf16_is_of_processors_alone(tmp_path: Path) -> None:
    with pytest.raises(AtrousError) as caught:
        OnnxRuntimeEngine(tiny(tmp_path / "m.onnx"), "bf16", providers=["CPUExecutionProvider"])
    assert caught.value.code == "E-PRECISION"


def test_finished_work_of_another_device_is_done_anew(tmp_path: Path) -> None:
    predictor = Predictor(ExportedEngine(tiny(tmp_path / "m.onnx"), keep_compiled=False))
    one = Picture(Path("a.jpg"), "a")
    job = Job(predictor, tmp_path, Extras(), overwrite=False)
    before = job._options(one)
    predictor.device = "cuda"
    assert job._options(one) == {**before, "device": "cuda"}


@pytest.mark.gpu
@pytest.mark.parametrize("exported", [True, False])
def test_labels_on_a_card_are_those_of_the_processor(exported: bool, tmp_path: Path) -> None:
    from atrous.export.export import export

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model = lively("mobilenet_v2")
    export(model, tmp_path / "m.onnx")
    source = tmp_path / "m.onnx" if exported else model
    image = picture(129, 97)
    there, here = (Predictor(source, device=device)(image) for device in ("cuda", "cpu"))
    assert (there.labels == here.labels).mean() > 0.999
