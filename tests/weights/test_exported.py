"""A network read back from the file it was exported to."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from atrous.build import create_model
from atrous.engines import built_in
from atrous.engines.exported_file import read_header
from atrous.engines.openvino import ExportedEngine
from atrous.errors import AtrousError
from atrous.export.export import export
from atrous.loading import convert, load, load_weights
from atrous.training.batch_norm import batch_norms, restore_folded
from atrous.training.distributed import Processes
from atrous.training.update import Learner
from atrous.weights.store import save
from tests.export.test_export import lively
from tests.tiny import tiny

SMALL = {"depth_multiplier": 0.35}
FAMILIES = [
    ("mobilenet_v2", SMALL),
    ("mobilenet_v2", {**SMALL, "decoder": False, "atrous_rates": ()}),
    ("mobilenet_v2", {**SMALL, "separable": False, "image_pooling": False, "refine": ((3, 32),)}),
    ("mobilenet_v2", {**SMALL, "decoder_strides": (8, 4), "atrous_rates": (2, 4)}),
    ("timm/mobilenetv3_small_050", {}),
    ("timm/mobilenetv2_050", {}),
    pytest.param("timm/resnet10t", {}, marks=pytest.mark.slow),
    pytest.param("timm/densenet121", {}, marks=pytest.mark.slow),
    pytest.param("resnet50", {"stem": "plain"}, marks=pytest.mark.slow),
    pytest.param("resnet50", {"multi_grid": (1, 1, 1), "output_stride": 8}, marks=pytest.mark.slow),
    pytest.param("xception41", {"relu_after_depthwise": True}, marks=pytest.mark.slow),
    pytest.param("xception41", {"head": "dense_prediction_cell"}, marks=pytest.mark.slow),
]


def coarse(model, picture):
    with torch.inference_mode():
        return model.coarse_logits(torch.from_numpy(picture).permute(2, 0, 1)[None])[0]


def picture(height=65, width=98):
    return np.random.default_rng(3).integers(0, 256, (height, width, 3)).astype(np.uint8)


def without_architecture(path):
    """The file as versions before this field wrote it."""
    proto = onnx.load(path)
    kept = [p for p in proto.metadata_props if p.key != "architecture"]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    onnx.save(proto, path)


@pytest.mark.parametrize("described", [True, False], ids=["described", "inferred"])
@pytest.mark.parametrize(("backbone", "options"), FAMILIES)
def test_a_network_read_back_gives_the_logits_it_was_exported_with(
    tmp_path, backbone, options, described
):
    model = lively(backbone, **options)
    path = tmp_path / "model.onnx"
    export(model, path)
    if not described:
        without_architecture(path)
        if backbone.startswith("timm/"):
            with pytest.raises(AtrousError) as caught:
                load(path)
            assert caught.value.code == "E-MODEL-READ-BACK"
            return
    found = load(path)
    expected, logits = coarse(model, picture()), coarse(found, picture())
    assert (logits - expected).abs().max() < 1e-3 * expected.std()
    assert found.classes == model.classes
    for stride in (8, 32):
        model.set_output_stride(stride)
        found.set_output_stride(stride)
        expected, logits = coarse(model, picture()), coarse(found, picture())
        assert (logits - expected).abs().max() < 1e-3 * expected.std()


def test_a_file_of_16_bits_gives_the_logits_of_the_file(tmp_path):
    export(lively("mobilenet_v2", **SMALL), tmp_path / "half.onnx", half=True)
    expected = ExportedEngine(tmp_path / "half.onnx", keep_compiled=False).coarse_logits(picture())
    found = coarse(load(tmp_path / "half.onnx"), picture()).permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() < 1e-3 * expected.std()


@pytest.mark.parametrize("name", built_in.names())
def test_a_built_in_model_is_a_model_everywhere(name, tmp_path):
    model = load(name)
    header = built_in.header(name)
    assert (model.classes, model.output_stride) == (header.classes, header.output_stride)
    assert model.provenance.licence == header.licence
    engine = ExportedEngine(built_in.FOLDER / f"{name}.onnx", keep_compiled=False)
    expected = engine.coarse_logits(picture())
    found = coarse(model, picture()).permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() < 1e-3 * expected.std()
    save(convert(name), tmp_path / "model.safetensors")
    started = create_model("mobilenet_v2", num_classes=2, pretrained=name)
    weights = model.encoder.backbone.state_dict()
    assert all(torch.equal(t, weights[n]) for n, t in started.encoder.backbone.state_dict().items())
    assert started.provenance.licence == header.licence
    assert load_weights(load(tmp_path / "model.safetensors"), name) == []


def test_a_built_in_name_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = built_in.names()[0]
    save(lively("mobilenet_v2", **SMALL), tmp_path / name / "best.safetensors")
    assert load(name).classes == built_in.header(name).classes
    assert load(f"./{name}").classes == lively("mobilenet_v2", **SMALL).classes
    assert load(tmp_path / name).classes == lively("mobilenet_v2", **SMALL).classes


def test_a_network_read_back_trains_on(tmp_path):
    """Its folded batch norms are restored from data, and updates lower the loss."""
    model = lively("mobilenet_v2", **SMALL)
    export(model, tmp_path / "model.onnx")
    found = load(tmp_path / "model.onnx")
    images = torch.from_numpy(np.stack([picture(33, 33) for _ in range(4)])).permute(0, 3, 1, 2)
    before = found.coarse_logits(images)
    assert len(restore_folded(found, [images])) == len(list(batch_norms(found)))
    after = found.eval().coarse_logits(images)
    assert (after - before).abs().max() < 1e-3 * before.std()
    config = tiny(batch_size=4, base_lr=0.01)
    learner = Learner(found, config, Processes(0, 1, torch.device("cpu")))
    targets = torch.zeros(4, 33, 33, dtype=torch.int64)
    losses = [learner.update(images, targets, 0).loss for _ in range(4)]
    assert losses[-1] < losses[0]


def test_a_file_that_computes_something_else_is_refused(tmp_path):
    """The header is believed only as far as the graph agrees."""
    export(lively("mobilenet_v2", **SMALL), tmp_path / "model.onnx")
    proto = onnx.load(tmp_path / "model.onnx")
    (entry,) = (p for p in proto.metadata_props if p.key == "architecture")
    entry.value = json.dumps({**json.loads(entry.value), "one_sided_padding": 32})
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(AtrousError) as caught:
        load(tmp_path / "model.onnx")
    assert caught.value.code == "E-MODEL-READ-BACK"


def test_weights_of_eight_bits_are_not_read_back(tmp_path):
    path = tmp_path / "model.onnx"
    export(lively("mobilenet_v2", **SMALL), path)
    header = replace(read_header(path), precision="int8")
    proto = onnx.load(path)
    onnx.helper.set_model_props(proto, header.properties())
    onnx.save(proto, path)
    with pytest.raises(AtrousError) as caught:
        load(path)
    assert caught.value.code == "E-MODEL-INT8"
