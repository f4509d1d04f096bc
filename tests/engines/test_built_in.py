"""The models in the package are whole, small, and say what they are."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import atrous
from atrous.engines import built_in
from atrous.engines.open import exported_file, load_model, open_engine
from atrous.errors import AtrousError


@pytest.fixture(params=built_in.names())
def name(request) -> str:
    return request.param


def test_there_is_a_default():
    assert built_in.DEFAULT in built_in.names()
    assert built_in.find("none") is None


def test_a_file_is_small_and_says_what_it_is(name):
    path = built_in.find(name)
    assert path is not None
    assert path.stat().st_size < 6e6
    header = built_in.header(name)
    assert "research" in header.licence
    assert header.training["recipe"]
    assert header.training["initial_weights"]
    assert header.training["data"]
    assert any("Google" in note or "MLCommons" in note for note in header.notes)


def test_its_terms_are_in_the_notice(name):
    notice = (Path(__file__).parents[2] / "NOTICE").read_text()
    assert f"atrous/trained/{name}.onnx" in notice
    assert built_in.header(name).training["initial_weights"].split(" ")[0] in notice


def test_it_segments_by_name(name):
    predictor = atrous.Predictor(name)
    result = predictor(np.full((65, 97, 3), 127, np.uint8))
    assert result.labels.shape == (65, 97)
    assert predictor.classes == built_in.header(name).classes


@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_a_built_in_name_wins_over_files_and_folders(name, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if kind == "file":
        (tmp_path / name).write_text("no model")
    elif kind == "folder":
        (tmp_path / name).mkdir()
    assert open_engine(name).fingerprint == built_in.header(name).sha256
    assert exported_file(name) == built_in.FOLDER / f"{name}.onnx"
    with pytest.raises(AtrousError) as caught:  # written like this, it is a path
        open_engine(f"./{name}")
    assert caught.value.code == ("E-MODEL-MISSING" if kind == "nothing" else "E-MODEL-KIND")


def test_the_default_model_is_not_shadowed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / built_in.DEFAULT).mkdir()
    assert open_engine(None).fingerprint == built_in.header(built_in.DEFAULT).sha256


def test_int8_takes_the_int8_file_of_the_name(name, tmp_path, monkeypatch):
    if not built_in.find(name).with_suffix(".int8.onnx").exists():
        with pytest.raises(AtrousError) as caught:
            open_engine(name, precision="int8")
        assert caught.value.code == "E-PRECISION"
    shutil.copy(built_in.find(name), tmp_path / f"{name}.onnx")
    shutil.copy(built_in.find(name), tmp_path / f"{name}.int8.onnx")
    monkeypatch.setattr(built_in, "FOLDER", tmp_path)
    assert built_in.names() == (name,)
    assert exported_file(name, int8=True) == tmp_path / f"{name}.int8.onnx"


def test_a_built_in_model_is_a_network_that_can_be_trained_on(name):
    for model in (load_model(name), atrous.load(name)):
        assert model.classes == built_in.header(name).classes


def test_models_lists_them_with_their_terms(name, capsys):
    from atrous.cli.models import _built_in, _show_built_in

    row = next(row for row in _built_in() if row["name"] == name)
    assert json.loads(json.dumps(row))["terms"] == built_in.header(name).licence
    _show_built_in()
    assert row["terms"] in capsys.readouterr().out
